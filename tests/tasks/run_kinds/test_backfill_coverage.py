"""Test the covered spans of a backfill, and the source that a backfill reads."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sources import coingecko
from sources.contract import Page, TerminalError
from tasks.run_kinds.backfill import FORMAT, Coverage, history_of, with_history
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED, canned

DAY = timedelta(days=1)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


# The processed spans of a listing


def span(first: int, last: int) -> tuple[datetime, datetime]:
    return NOW + first * DAY, NOW + last * DAY


def test_adjacent_and_overlapping_spans_are_merged_in_any_order() -> None:
    coverage = Coverage.of(None, run="a")
    for first, last in ((4, 6), (0, 2), (2, 3), (5, 8)):
        coverage.add(span(first, last))
    assert coverage.covered == coverage.processed == [span(0, 3), span(4, 8)]


def test_a_cursor_restores_the_coverage_of_its_run() -> None:
    coverage = Coverage.of(None, run="a")
    coverage.add(span(0, 1))
    coverage.add(span(2, 3), TerminalError("no data", code="upstream_refused"))
    cursor = json.loads(json.dumps(coverage.cursor("a")))
    assert Coverage.of(cursor, run="a") == coverage
    assert coverage.error == {"code": "upstream_refused", "detail": "no data"}


def test_the_cursor_stores_processed_spans_under_the_key_of_earlier_versions() -> None:
    coverage = Coverage.of(None, run="a")
    coverage.add(span(0, 1))
    cursor = coverage.cursor("a")
    assert cursor["mine"] == cursor["covered"] != []


def test_another_run_inherits_the_covered_spans_but_not_the_error() -> None:
    first = Coverage.of(None, run="a")
    first.add(span(0, 1))
    first.add(span(2, 3), TerminalError("no data"))
    second = Coverage.of(first.cursor("a"), run="b")
    assert (second.covered, second.refused, second.processed, second.error) == ([span(0, 1)], [span(2, 3)], [], None)
    assert second.to_skip("skip") == [span(0, 1), span(2, 3)]
    assert second.to_skip("retry") == [span(0, 1)]
    assert second.to_skip("repeat") == []


def test_a_run_skips_its_own_processed_spans_even_with_repeat() -> None:
    coverage = Coverage.of(None, run="a")
    coverage.add(span(0, 1))
    coverage.add(span(2, 3), TerminalError("no data"))
    assert coverage.to_skip("repeat") == coverage.to_skip("retry") == [span(0, 1), span(2, 3)]


def test_loading_a_refused_span_later_keeps_the_first_error() -> None:
    coverage = Coverage.of(None, run="a")
    coverage.add(span(0, 1), TerminalError("first"))
    coverage.add(span(2, 3), TerminalError("second"))
    coverage.add(span(0, 1))
    assert (coverage.refused, coverage.covered) == ([span(2, 3)], [span(0, 1)])
    assert coverage.error is not None
    assert coverage.error["detail"] == "first"


# The adapted source


def test_a_source_without_a_history_cannot_be_backfilled(bench: Bench) -> None:
    with pytest.raises(TerminalError, match="canned declares no history") as error:
        history_of(canned())
    assert error.value.code == "no_history"
    plain = canned()
    assert with_history(plain) is plain


def test_backfilled_pages_use_the_mapping_of_the_history() -> None:
    source = with_history(coingecko.source)
    chart = json.dumps({"prices": [[1_600_041_600_000, 7]], "market_caps": [], "total_volumes": []}).encode()
    listing = {"source_asset_id": "bitcoin", "symbol": "btc", "name": "Bitcoin", "quote_currency": "USD"}
    backfilled = Page(chart, "application/json", {"listing": listing}, FETCHED, None)
    live = Page(json.dumps([{"id": "ether", "current_price": 5}]).encode(), "application/json", {}, FETCHED, None)
    [past], [present] = ([source.normalize(fields) for fields in source.parse(page)] for page in (backfilled, live))
    assert (past["source_asset_id"], past["price"]) == ("bitcoin", 7)
    assert (present["source_asset_id"], present["price"]) == ("ether", 5)
    assert (source.format(backfilled), source.format(live)) == (FORMAT, coingecko.source.format(live))
    refused = replace(backfilled, body=b"", request={"listing": listing, "refused": "no data"})
    assert list(source.parse(refused)) == []
