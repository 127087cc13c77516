"""Test that a file whose first records are all rejected is not read further, and that other files are loaded."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest

from settings import get_settings
from sources import FileSet, csv_source
from sources.contract import Source
from tests.tasks.conftest import Bench

LIMIT = 20


@pytest.fixture
def folder(tmp_path: Path, process_settings: pytest.MonkeyPatch) -> Path:
    process_settings.setenv("CSV_DIR", str(tmp_path))
    process_settings.setenv("CSV_BLOCK_RECORDS", "8")
    get_settings.cache_clear()
    return tmp_path


@pytest.fixture
def files() -> Source:
    columns = {"source_asset_id": "coin", "symbol": "coin", "name": "coin", "observed_at": "time", "price": "price"}
    constants = {"quote_currency": "USD"}
    return csv_source("files", timedelta(hours=1), [FileSet(pattern="*.csv", columns=columns, constants=constants)])


def write(path: Path, prices: Iterable[str]) -> None:
    lines = (f"btc,2026-01-01T00:{minute // 60:02}:{minute % 60:02}Z,{price}" for minute, price in enumerate(prices))
    path.write_text("\n".join(["coin,time,price", *lines, ""]))


def test_a_file_whose_first_records_are_all_rejected_stops_with_one_error(
    bench: Bench, folder: Path, files: Source
) -> None:
    write(folder / "bad.csv", ["1,5"] * 400)
    write(folder / "good.csv", ["1.5"])
    run = bench.slice(bench.request(files), csv_first_records=LIMIT)
    assert (run["status"], run["error_code"]) == ("failed", "records_rejected")
    assert run["error_detail"].startswith(
        "files: bad.csv: its first 24 records were all rejected, so it was not read further. Correct the file or its "
        "declaration, or raise CSV_FIRST_RECORDS. Its columns: ['coin', 'time', 'price']. The first records: "
        '{"file": "bad.csv", "line": 2, "row": ["btc", "2026-01-01T00:00:00Z", "1", "5"]} '
        "(row: expected 3 cells, got 4); "
    )
    assert run["error_detail"].count("expected 3 cells") == 3
    assert bench.one("SELECT count(*) FROM quotes") == 1
    assert bench.one("SELECT count(*) FROM rejects") == 16


def test_the_next_run_reads_a_refused_file_again_from_its_beginning(bench: Bench, folder: Path, files: Source) -> None:
    write(folder / "bad.csv", ["much"] * 400)
    for _ in range(2):
        run = bench.slice(bench.request(files), csv_first_records=LIMIT)
        assert run["error_code"] == "records_rejected"
    assert bench.one("SELECT count(*) FROM rejects") == 16
    write(folder / "bad.csv", ["1.5"] * 400)
    assert bench.ingest(files)["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM quotes") == 400


@pytest.mark.parametrize(
    "first", [["1.5"], ["", "much"], ["much"] * (LIMIT - 1) + ["1.5"]], ids=["read", "unpriced", "below_the_limit"]
)
def test_a_file_with_a_record_that_was_read_well_is_read_to_its_end(
    bench: Bench, folder: Path, files: Source, first: list[str]
) -> None:
    write(folder / "some.csv", [*first, *["much"] * 100, "2.5"])
    run = bench.slice(bench.request(files), csv_first_records=LIMIT)
    assert run["status"] == "partial"
    assert bench.one("SELECT count(*) FROM quotes WHERE price = 2.5") == 1


def test_rejected_records_at_the_end_of_a_file_that_grew_do_not_stop_it(
    bench: Bench, folder: Path, files: Source
) -> None:
    write(folder / "grows.csv", ["1.5"])
    bench.ingest(files)
    write(folder / "grows.csv", ["1.5", *["much"] * 100, "2.5"])
    assert bench.slice(bench.request(files), csv_first_records=LIMIT)["status"] == "partial"


def test_a_limit_above_the_stored_rejects_of_a_page_counts_all_records(
    bench: Bench, folder: Path, files: Source, process_settings: pytest.MonkeyPatch
) -> None:
    process_settings.setenv("CSV_BLOCK_RECORDS", "5000")
    get_settings.cache_clear()
    write(folder / "bad.csv", ["much"] * 1500)
    run = bench.slice(bench.request(files), csv_first_records=1200)
    assert "its first 1500 records were all rejected" in run["error_detail"]
    assert bench.one("SELECT count(*) FROM rejects") == 0
