"""Test that the file for the benchmarks has the declared numbers of rows and never varies."""

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
    """Return the good rows by their key."""
    record, valid = Record(datetime.now(UTC)), {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if None not in row.values():  # Skip ragged rows.
                with suppress(Reject):
                    quote = record.judge(source.normalize({"file": FILE, "row": row, "currency": None})).quote
                    valid[quote.source_asset_id, quote.observed_at] = quote
    return valid


def test_the_file_has_the_declared_number_of_good_rows(tmp_path: Path) -> None:
    HISTORIES.write(tmp_path / "histories.csv")
    valid = quotes(tmp_path / "histories.csv")
    assert len(valid) == HISTORIES.good == HISTORIES.rows - 6
    assert {coin for coin, _ in valid} == {name(coin) for coin in range(22)}


def test_the_file_is_identical_each_time(tmp_path: Path) -> None:
    for copy in ("one", "two"):
        HISTORIES.write(tmp_path / copy)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_later_edition_changes_the_declared_number_of_rows(tmp_path: Path) -> None:
    HISTORIES.write(tmp_path / "first.csv")
    replace(HISTORIES, changed=True).write(tmp_path / "changed.csv")
    first, changed = quotes(tmp_path / "first.csv"), quotes(tmp_path / "changed.csv")
    assert first.keys() == changed.keys()
    assert sum(first[key] != changed[key] for key in first) == HISTORIES.changes


def test_hours_in_the_future_are_refused() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        Histories(coins=1, hours=80_001)
