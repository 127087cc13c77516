"""Test that recorded responses of the upstreams are loaded completely and exactly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from sources import coingecko, coinpaprika, csv_source
from sources.contract import Http, Page, Source, Window
from store.engine import make_engine
from tests.recordings import Recordings
from tests.sources.csv.recorded_files import CSV_FILES
from tests.sources.csv_folder import environment
from tests.tasks.conftest import Bench

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def recorded(source: Source, recording: Path) -> Source:
    """Return the source with a recording instead of its upstream."""

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        yield Page(recording.read_bytes(), "application/json", {"file": recording.name}, NOW, {"run": window.run})

    return replace(source, fetch=fetch)


@pytest.fixture
def bench(bench: Bench, database_url: str) -> Iterator[Bench]:
    """Yield a bench without a transaction timeout, because loading a whole list can take long on a busy machine."""
    engine = make_engine(database_url, "test")
    yield replace(bench, engine=engine, settings=replace(bench.settings, transaction_timeout=30.0))
    engine.dispose()


def prices(bench: Bench) -> dict[str, Decimal]:
    rows = bench.rows("SELECT source_asset_id, price FROM quotes JOIN listings ON listings.id = listing_id")
    return {row["source_asset_id"]: row["price"] for row in rows}


def test_every_recorded_ticker_of_coinpaprika_is_loaded_exactly(bench: Bench, recordings: Recordings) -> None:
    recording = recordings.all_tickers
    run = bench.ingest(recorded(coinpaprika.source, recording))
    coins = {coin["id"]: coin for coin in json.loads(recording.read_text(), parse_float=Decimal)}
    assert len(coins) == recordings.tickers
    assert prices(bench) == {id_: coin["quotes"]["USD"]["price"] for id_, coin in coins.items()}
    assert run["status"] == "succeeded"
    unknown = bench.rows("SELECT count(*) AS all, count(market_cap) AS caps, count(max_supply) AS max FROM quotes")
    assert dict(unknown[0]) == {
        "all": recordings.tickers,
        "caps": recordings.tickers - recordings.no_market_cap,
        "max": recordings.tickers - recordings.no_max_supply,
    }
    assert bench.one("SELECT count(dropped) FROM pages") == 0


def test_coins_of_one_source_with_the_same_symbol_are_separate_assets(bench: Bench, recordings: Recordings) -> None:
    bench.ingest(recorded(coinpaprika.source, recordings.all_tickers))
    assert bench.one("SELECT count(DISTINCT symbol) FROM listings") < recordings.tickers
    assert bench.one("SELECT count(DISTINCT asset) FROM listings") == recordings.tickers


def test_a_recorded_page_of_coingecko_is_loaded_exactly(bench: Bench, recordings: Recordings) -> None:
    recording = recordings.first_markets
    run = bench.ingest(recorded(coingecko.source, recording))
    coins = json.loads(recording.read_text(), parse_float=Decimal)
    assert run["status"] == "succeeded"
    assert prices(bench) == {coin["id"]: coin["current_price"] for coin in coins}
    assert len(coins) == recordings.markets
    # The price of some coins is outside of the range of the last 24 hours, which is a little older.
    assert bench.one("SELECT count(dropped) FROM pages") == 0


def test_a_coin_listed_by_two_upstreams_is_one_asset(bench: Bench, recordings: Recordings) -> None:
    slug, gecko, paprika = recordings.shared_coin
    bench.ingest(recorded(coinpaprika.source, recordings.all_tickers))
    bench.ingest(recorded(coingecko.source, recordings.first_markets))
    listings = "SELECT source, source_asset_id FROM listings JOIN assets ON assets.id = asset WHERE slug = :slug"
    rows = bench.rows(f"{listings} ORDER BY 1", slug=slug)
    assert [tuple(row.values()) for row in rows] == [("coingecko", gecko), ("coinpaprika", paprika)]


def test_every_csv_file_loads_except_for_its_invalid_rows(bench: Bench, recordings: Recordings) -> None:
    files = CSV_FILES[recordings]
    source = csv_source("csv_real", timedelta(minutes=15), [file.declared for file in files])
    with environment(CSV_DIR=str(recordings.folder / "csv")):
        run = bench.ingest(source)
    assert (run["status"], run["error_detail"]) == ("partial", None)
    loaded = {
        row["partition"]: (row["quotes"], row["rejected"], row["blank"])
        for row in bench.rows("""
            SELECT partition, sum(inserted + updated + unchanged + deduplicated) AS quotes, sum(rejected) AS rejected,
                   sum(blank) AS blank
              FROM pages GROUP BY partition
        """)
    }
    assert loaded == {
        file.name: (file.quotes, sum(file.rejects.values()), file.blank) for file in files if "empty" not in file.name
    }
    assert bench.one("SELECT count(*) FROM rejects") == sum(sum(file.rejects.values()) for file in files)
