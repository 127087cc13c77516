"""Test that recorded and synthetic CSV files load completely, or reject exactly the expected rows.

The expected counts of the recorded files were verified by hand, with grep and with the csv module alone.
"""

from __future__ import annotations

import csv

import pytest

from tests.data.csv_files import Expected
from tests.recordings import Recordings
from tests.sources.csv.recorded_files import CSV_FILES
from tests.sources.csv_folder import Folder

EACH_FILE = pytest.mark.parametrize(
    ("recordings", "expected"),
    [
        pytest.param(recordings, expected, id=f"{recordings}-{expected.name}")
        for recordings, files in CSV_FILES.items()
        for expected in files
    ],
    indirect=["recordings"],
)

DROPPED = {
    # One candle has zeros instead of its open, high and low.
    "zilliqa_decimal_comma.csv": {("high", "price_outside_range"): 1, ("low", "price_outside_range"): 1},
}


@EACH_FILE
def test_a_file_loads_or_is_refused_with_the_expected_error(recordings: Recordings, expected: Expected) -> None:
    folder = Folder(recordings.folder / "csv", expected.declared)
    assert folder.partitions() == [expected.name]
    outcome = folder.validate(folder.scan(expected.name, block=64 * 1024))
    assert (len(outcome.quotes), outcome.codes, outcome.blank) == (expected.quotes, expected.rejects, expected.blank)
    assert outcome.dropped == DROPPED.get(expected.name, {})
    first_quotes = [
        f"{quote.source_asset_id} {quote.quote_currency} {quote.observed_at:%Y-%m-%dT%H:%M:%S} {quote.price}"
        for quote in outcome.quotes[:1]
    ]
    assert first_quotes == ([expected.first] if expected.first else [])


@EACH_FILE
def test_every_row_of_a_file_is_accounted_for(recordings: Recordings, expected: Expected) -> None:
    declared = expected.declared
    encoding = "utf-8-sig" if declared.encoding == "utf-8" else declared.encoding
    with (recordings.folder / "csv" / expected.name).open(newline="", encoding=encoding) as file:
        rows = len(list(csv.reader(file, delimiter=declared.delimiter)))
    if rows:
        rows -= declared.skip_lines + (declared.header is True)
    items = expected.quotes + sum(expected.rejects.values())
    assert items == (rows - expected.blank) * max(1, len(declared.currencies))
