"""Define the sizes of the benchmarks: the full form, and the small form of `make bench QUICK=1`."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.sample import Histories


@dataclass(frozen=True)
class Scale:
    """The sizes of one form.

    rounds:           interleaved measurements. Each ratio is taken within a round.
    file:             the file that is loaded and reloaded.
    row_by_row_count: the rows of that file for contenders that load row by row.
    long_file:        the file for two workers, long enough to keep both busy.
    memory_file:      the file whose load is measured for memory.
    listings, hours:  the size of the large table, with a row for each listing and hour.
    growth:           the rows added to the large table.
    seconds_per_url:  how long one URL is requested at a time.
    export:           the rows of an export.
    """

    name: str
    rounds: int
    file: Histories
    row_by_row_count: int
    long_file: Histories
    memory_file: Histories
    listings: int
    hours: int
    growth: int
    seconds_per_url: float
    export: int


FULL = Scale(
    name="full",
    rounds=5,
    file=Histories(coins=200, hours=5_000),
    row_by_row_count=20_000,
    long_file=Histories(coins=400, hours=5_000),
    memory_file=Histories(coins=3_800, hours=5_000),
    listings=1_000,
    hours=10_000,
    growth=200_000,
    seconds_per_url=3,
    export=1_000_000,
)

QUICK = Scale(
    name="quick",
    rounds=3,
    file=Histories(coins=50, hours=1_600),
    row_by_row_count=1_000,
    long_file=Histories(coins=80, hours=1_600),
    memory_file=Histories(coins=250, hours=2_000),
    listings=250,
    hours=2_000,
    growth=20_000,
    seconds_per_url=0.4,
    export=100_000,
)
