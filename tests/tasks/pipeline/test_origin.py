"""Test that the page and the item of a stored quote can be found, for values that were corrected as well."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sources import FileSet, csv_source
from sources.contract import Source
from tasks.pipeline.origin import Origin, find_origin
from tests.sources.csv_folder import environment
from tests.tasks.conftest import Bench
from tests.upstreams import OBSERVED, canned, item

HEADER = "coin,price,time\n"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with environment(CSV_DIR=str(tmp_path), CSV_BLOCK_BYTES="150", CSV_RECORD_BYTES="100", CSV_RANGE_BYTES="1000"):
        yield tmp_path


@pytest.fixture
def source() -> Source:
    columns = {"source_asset_id": "coin", "symbol": "coin", "name": "coin", "price": "price", "observed_at": "time"}
    files = FileSet(pattern="*.csv", columns=columns, constants={"quote_currency": "USD"})
    return csv_source("files", timedelta(hours=1), [files])


def origin(bench: Bench, source: Source, coin: str, observed_at: datetime) -> Origin | None:
    listing = bench.one("SELECT id FROM listings WHERE source_asset_id = :coin", coin=coin)
    with bench.engine.connect() as connection:
        return find_origin(connection, source, listing, (coin, "USD"), observed_at, 60.0)


def row(number: int, price: str = "1.5") -> str:
    return f"btc,{price},{(NOON + timedelta(minutes=number)).isoformat()}\n"


def test_each_quote_of_a_file_has_its_line_and_its_item(bench: Bench, folder: Path, source: Source) -> None:
    lines = [HEADER, "ragged\n", "\n", *map(row, range(50))]
    lines.insert(20, '"btc",1.5,"2026-01-01T00:00:00Z"\n')
    (folder / "a.csv").write_text("".join(lines))
    bench.ingest(source)
    pages = set()
    for line, text in enumerate(lines[3:], 4):
        cells = text.strip().replace('"', "").split(",")
        found = origin(bench, source, "btc", datetime.fromisoformat(cells[2]))
        assert found
        assert (found.item["file"], found.item["line"], [*found.item["row"].values()]) == ("a.csv", line, cells)
        assert found.request["line"] <= line
        pages.add((found.partition, found.seq))
    assert len(pages) > 5


def test_the_origin_of_a_corrected_quote_is_the_page_that_corrected_it(
    bench: Bench, folder: Path, source: Source
) -> None:
    (folder / "a.csv").write_text(HEADER + row(0) + row(1))
    first = bench.ingest(source)
    (folder / "b.csv").write_text(HEADER + row(1, "2.5") + row(1, "3.5"))
    second = bench.ingest(source)
    unchanged, corrected = (origin(bench, source, "btc", NOON + timedelta(minutes=number)) for number in (0, 1))
    assert unchanged
    assert corrected
    assert (unchanged.run, unchanged.partition, unchanged.item["line"]) == (first["id"], "a.csv", 2)
    assert (corrected.run, corrected.partition, corrected.item["line"]) == (second["id"], "b.csv", 3)
    assert corrected.item["row"]["price"] == "3.5"


def test_an_item_of_a_response_is_found_until_its_body_is_deleted(bench: Bench) -> None:
    source = canned([item(0), item(1), item(2)])
    run = bench.ingest(source)
    found = origin(bench, source, "coin-1", OBSERVED)
    assert found
    assert (found.run, found.item_index, found.item) == (run["id"], 1, item(1))
    assert origin(bench, source, "coin-1", OBSERVED + timedelta(seconds=1)) is None
    bench.rows("UPDATE raw_bodies SET body = NULL")
    assert origin(bench, source, "coin-1", OBSERVED) is None
