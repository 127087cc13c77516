"""The benchmarks' file is what it says: so many rows, so many of them good, and the same each time."""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sources.contract import Reject
from sources.csv_history import source
from sources.record import Quote, Record
from tests.bench.sample import FILE, Histories, name

HISTORIES = Histories(coins=22, hours=300)


def quotes(path: Path) -> dict[tuple[str, datetime], Quote]:
    """The good rows, by their key."""
    record, found = Record(datetime.now(UTC)), {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if None not in row.values():  # not a ragged one
                with suppress(Reject):
                    quote = record.quote(source.normalize({"file": FILE, "row": row, "currency": None}))
                    found[quote.source_asset_id, quote.observed_at] = quote
    return found


def test_has_as_many_good_rows_as_it_says(tmp_path: Path) -> None:
    HISTORIES.write(tmp_path / "histories.csv")
    found = quotes(tmp_path / "histories.csv")
    assert len(found) == HISTORIES.good == HISTORIES.rows - 6
    assert {coin for coin, _ in found} == {name(coin) for coin in range(22)}


def test_is_the_same_each_time(tmp_path: Path) -> None:
    for again in ("one", "two"):
        HISTORIES.write(tmp_path / again)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_later_edition_differs_in_as_many_rows_as_it_says(tmp_path: Path) -> None:
    HISTORIES.write(tmp_path / "first.csv")
    replace(HISTORIES, changed=True).write(tmp_path / "changed.csv")
    first, changed = quotes(tmp_path / "first.csv"), quotes(tmp_path / "changed.csv")
    assert first.keys() == changed.keys()
    assert sum(first[key] != changed[key] for key in first) == HISTORIES.changes


def test_does_not_go_beyond_today() -> None:
    with pytest.raises(ValueError, match="goes beyond"):
        Histories(coins=1, hours=80_001)
