"""How much is measured: the whole, or the small form that `make bench QUICK=1` does in three minutes."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.sample import Histories


@dataclass(frozen=True)
class Scale:
    """rounds: of interleaved measurements, each ratio taken within one.

    file:     what is loaded and loaded again. one_by_one: rows of it for those that take them one by one.
    long_file: for two workers, so long that each has something to do.
    memory_file: whose load may not take more memory than any other.
    listings, hours: of the large table, one row each; growth: rows that are added to it.
    asking:   seconds that one URL is asked for at a time. export: rows.
    """

    name: str
    rounds: int
    file: Histories
    one_by_one: int
    long_file: Histories
    memory_file: Histories
    listings: int
    hours: int
    growth: int
    asking: float
    export: int


FULL = Scale(
    name="full",
    rounds=5,
    file=Histories(coins=200, hours=5_000),
    one_by_one=20_000,
    long_file=Histories(coins=400, hours=5_000),
    memory_file=Histories(coins=3_800, hours=5_000),
    listings=1_000,
    hours=10_000,
    growth=200_000,
    asking=3,
    export=1_000_000,
)

QUICK = Scale(
    name="quick",
    rounds=3,
    file=Histories(coins=50, hours=1_600),
    one_by_one=1_000,
    long_file=Histories(coins=80, hours=1_600),
    memory_file=Histories(coins=250, hours=2_000),
    listings=250,
    hours=2_000,
    growth=20_000,
    asking=0.4,
    export=100_000,
)
