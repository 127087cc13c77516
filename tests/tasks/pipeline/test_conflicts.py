"""Test that items that contradict each other are told from true duplicates, within a page and between pages."""

from __future__ import annotations

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from sources import FileSet, csv_source
from tests.field import field_folder
from tests.sources.csv_folder import environment
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

CONFLICTS = (
    "SELECT sum(conflicting) AS conflicting, sum(deduplicated) AS deduplicated, sum(updated) AS updated FROM pages"
)


def sums(bench: Bench) -> tuple[int, ...]:
    [row] = bench.rows(CONFLICTS)
    return tuple(row.values())


def test_items_of_one_page_with_other_values_conflict(bench: Bench) -> None:
    with capture_logs() as logs:
        run = bench.ingest(canned([item(0, price="61500"), item(1), item(0, price="62000"), item(1)]))
    assert run["status"] == "succeeded"
    assert sums(bench) == (1, 2, 0)
    [event] = [event for event in logs if event["event"] == "items_conflicting"]
    assert event["first"]["values"] == {"price": ["61500", "62000"]}
    assert bench.one("SELECT conflict -> 'values' FROM pages") == {"price": ["61500", "62000"]}
    assert (
        bench.one(
            "SELECT q.price FROM quotes AS q JOIN listings AS l ON l.id = q.listing_id ORDER BY price DESC LIMIT 1"
        )
        == 62000
    )


@pytest.mark.parametrize(
    ("one", "other"), [("0.0000001", "1e-7"), ("1.50", "1.5"), ("12345678901234567.10", "12345678901234567.1")]
)
def test_one_number_in_two_spellings_is_a_duplicate(bench: Bench, one: str, other: str) -> None:
    bench.ingest(canned([item(price=one), item(price=other)]))
    assert sums(bench) == (0, 1, 0)


def test_numbers_that_differ_in_their_last_digit_conflict(bench: Bench) -> None:
    bench.ingest(canned([item(price="12345678901234567.1"), item(price="12345678901234567.2")]))
    assert sums(bench) == (1, 1, 0)


def test_a_value_that_only_one_of_two_items_has_conflicts(bench: Bench) -> None:
    bench.ingest(canned([item(rank=1), item(), item(1)]))
    assert sums(bench) == (1, 1, 0)
    assert bench.one("SELECT conflict -> 'values' FROM pages")["rank"] == ["1", None]


def test_of_three_items_each_is_compared_with_the_last(bench: Bench) -> None:
    bench.ingest(canned([item(price="1"), item(price="2"), item(price="1")]))
    assert sums(bench) == (1, 2, 0)


def test_items_of_two_pages_of_a_run_conflict(bench: Bench) -> None:
    with capture_logs() as logs:
        bench.ingest(canned([item(0, price="61500"), item(1)], [item(0, price="62000"), item(1)]))
    assert sums(bench) == (1, 0, 1)
    [event] = [event for event in logs if event["event"] == "items_conflicting"]
    assert event["first"]["values"] == {"price": ["61500", "62000"]}
    assert event["first"]["source_asset_id"] == item(0)["source_asset_id"]


def test_a_correction_by_a_later_run_is_no_conflict(bench: Bench) -> None:
    bench.ingest(canned([item(0, price="61500")]))
    bench.ingest(canned([item(0, price="62000")]))
    assert sums(bench) == (0, 0, 1)


def test_an_hour_that_comes_twice_conflicts(bench: Bench) -> None:
    row = {"source_asset_id": "symbol", "symbol": "symbol", "name": "name", "observed_at": "time", "price": "price"}
    usd = {"quote_currency": "USD"}
    files = FileSet(pattern="a.csv", columns=row, constants=usd, times=("%Y-%m-%d %H:%M",), complete=True)
    with environment(CSV_DIR=str(field_folder("conflicting_rows"))):
        run = bench.ingest(csv_source("dst_naive", timedelta(days=30), (files,)))
    assert run["status"] == "succeeded", run["error_detail"]
    assert sums(bench) == (1, 1, 0)
    assert bench.one("SELECT conflict -> 'values' FROM pages WHERE conflicting > 0") == {"price": ["61500", "62000"]}
