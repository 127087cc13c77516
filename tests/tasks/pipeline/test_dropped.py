"""Test that an invalid side value is dropped, counted and shown, and that its quote keeps the price."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from structlog.testing import capture_logs

from sources import FileSet, Source, coingecko, csv_source
from sources.redaction import process_redactor
from tasks.runs.parameters import ReplayParameters
from tests.field import field_folder
from tests.sources.csv_folder import COIN, environment
from tests.tasks.conftest import Bench
from tests.upstreams import Markets, canned, coins, item

CANDLE = {"observed_at": "day", "price": "close", "open": "open", "high": "high", "low": "low"}


def dropped(bench: Bench) -> dict[tuple[str, str], int]:
    """Return the number of dropped values by field and code, from all pages."""
    rows = bench.rows("SELECT kind FROM pages, jsonb_array_elements(dropped) AS kind")
    return {(row["kind"]["field"], row["kind"]["code"]): row["kind"]["count"] for row in rows}


def candles(pattern: str, **changes: Any) -> Source:
    files = FileSet(pattern=pattern, columns=CANDLE, constants=COIN, times=("%Y-%m-%d",), complete=True, **changes)
    return csv_source("candles", timedelta(days=1), (files,))


def test_invalid_side_values_become_null_and_are_counted_with_an_example(bench: Bench) -> None:
    items = [item(0, rank=0), item(1, rank=1), item(2, rank="x", market_cap=-1), item(3, rank=-1), item(4, price="x")]
    with capture_logs() as logs:
        run = bench.ingest(canned(items, [item(5)]))
    assert (run["status"], run["error_code"]) == ("partial", None)
    page, other = bench.rows("SELECT fetched, inserted, rejected, dropped FROM pages ORDER BY seq")
    assert (page["fetched"], page["inserted"], page["rejected"], other["dropped"]) == (5, 4, 1, None)
    assert [(kind["field"], kind["code"], kind["count"]) for kind in page["dropped"]] == [
        ("rank", "not_a_rank", 2),
        ("market_cap", "negative", 1),
        ("rank", "not_a_number", 1),
    ]
    first = page["dropped"][0]
    assert first["detail"] == "expected a whole number of 1 or more, got 0"
    assert json.loads(first["item"])["source_asset_id"] == "coin-0"
    [event] = [event for event in logs if event["event"] == "values_dropped"]
    assert (event["dropped"], event["fields"]) == (4, ["market_cap", "rank"])
    assert bench.one("SELECT count(*) FROM quotes WHERE rank IS NULL AND market_cap IS NULL") == 4


def test_a_run_with_dropped_values_and_no_rejects_succeeded(bench: Bench) -> None:
    assert bench.ingest(canned([item(0, rank=0), item(1, rank=0)]))["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM rejects") == 0


def test_an_example_contains_no_secret_and_is_short(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s3cret-s3cret-s3cret"
    monkeypatch.setenv("COINGECKO_API_KEY", secret)
    process_redactor.cache_clear()
    try:
        bench.ingest(canned([item(0, rank=f"{secret}\x00", name="x" * (300 - len(secret)) + secret, low="y" * 9000)]))
    finally:
        monkeypatch.undo()
        process_redactor.cache_clear()
    text = bench.one("SELECT dropped::text FROM pages")
    assert "not_a_number" in text
    assert "s3cret" not in text
    assert len(text) < 2000


def test_a_reject_for_a_side_value_is_released_by_a_replay(bench: Bench) -> None:
    """An earlier version rejected such items."""
    source = canned([item(0, rank=0)])
    run = bench.ingest(source)
    bench.rows(
        """
        INSERT INTO rejects (source, digest, item_index, item, reasons, rejected_at)
        SELECT source, body_digest, 0, '{}', '[{"field": "rank", "code": "not_a_rank", "detail": ""}]', now() FROM pages
        """
    )
    assert run["status"] == "succeeded"
    bench.ingest(source, replay=ReplayParameters(rejected=True))
    assert bench.one("SELECT state FROM rejects") == "replayed"


def test_an_unreadable_cell_of_a_side_column_is_dropped(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('day,open,high,low,close\n2026-01-01,"1.5","2,0",?,"1,5"\n2026-01-02,,,,?\n')
    with environment(CSV_DIR=str(tmp_path)):
        bench.ingest(candles("a.csv", decimal=","))
    # In this format, a point is no decimal separator: 1.5 is not read as a number with another meaning.
    assert dropped(bench) == {("open", "not_a_number"): 1, ("low", "not_a_number"): 1}
    assert bench.one("SELECT ARRAY[open, high, low, price]::text FROM quotes") == "{NULL,2.0,NULL,1.5}"
    assert bench.one("SELECT reasons -> 0 ->> 'field' FROM rejects") == "price"


# The inputs of ../shared/field


def test_a_close_outside_of_its_candle_keeps_its_price(bench: Bench) -> None:
    with environment(CSV_DIR=str(field_folder("impossible_candle"))):
        run = bench.ingest(candles("impossible_candle.csv"))
    assert run["status"] == "succeeded"
    assert dropped(bench) == {("high", "price_outside_range"): 1, ("low", "price_outside_range"): 1}
    assert bench.one("SELECT ARRAY[open, high, low, price]::text FROM quotes") == "{12,NULL,NULL,65457}"


def test_an_open_that_is_the_close_before_is_dropped_alone(bench: Bench, tmp_path: Path) -> None:
    """BitMEX's open is the close of the span before."""
    (tmp_path / "a.csv").write_text("day,open,high,low,close\n2024-03-08,68358,67186.5,67186.5,67186.5\n")
    with environment(CSV_DIR=str(tmp_path)):
        bench.ingest(candles("a.csv"))
    assert dropped(bench) == {("open", "open_outside_range"): 1}
    assert bench.one("SELECT ARRAY[open, high, low, price]::text FROM quotes") == "{NULL,67186.5,67186.5,67186.5}"


def test_one_odd_side_value_does_not_cost_the_price(
    bench: Bench, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coins of ../shared/field/good_price_lost."""
    odd: list[dict[str, Any]] = [
        {},
        {"circulating_supply": -5.0},
        {"total_supply": 2**256 - 1},
        {"high_24h": 1.0, "low_24h": 2.0},
        {"market_cap_rank": 0},
        {"price_change_percentage_24h": "Infinity"},
    ]
    markets = Markets(httpserver, [{**coin, **changes} for coin, changes in zip(coins(6), odd, strict=True)])
    monkeypatch.setenv("COINGECKO_URL", markets.url)
    run = bench.ingest(coingecko.source)
    assert run["status"] == "succeeded", run["error_detail"]
    assert bench.one("SELECT count(price) FROM quotes") == 6
    assert dropped(bench) == {
        ("circulating_supply", "negative"): 1,
        ("total_supply", "out_of_range"): 1,
        ("high", "high_below_low"): 1,
        ("low", "high_below_low"): 1,
        ("rank", "not_a_rank"): 1,
        ("change_24h_pct", "not_a_number"): 1,
    }
