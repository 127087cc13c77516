"""Recorded responses of real upstreams load completely, to the last digit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from sources import coingecko, coinpaprika
from sources.contract import Http, Page, Source, Window
from sources.csv import source as csv_files
from store.engine import make_engine
from tests.sources.csv.test_real_data import FILES
from tests.sources.csv_folder import environment
from tests.tasks.conftest import Bench

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def recorded(source: Source, recording: Path) -> Source:
    """Return the source with a recording instead of its upstream."""

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        yield Page(recording.read_bytes(), "application/json", {"file": recording.name}, NOW, {"run": window.run})

    return replace(source, fetch=fetch)


def prices(bench: Bench) -> dict[str, Decimal]:
    rows = bench.rows("SELECT source_asset_id, price FROM quotes JOIN listings ON listings.id = listing_id")
    return {row["source_asset_id"]: row["price"] for row in rows}


def test_every_ticker_of_coinpaprika_loads(bench: Bench, real_data: Path) -> None:
    recording = real_data / "coinpaprika" / "tickers.full.2019-09-06.usd.json"
    run = bench.ingest(recorded(coinpaprika.source, recording))
    coins = {coin["id"]: coin for coin in json.loads(recording.read_text(), parse_float=Decimal)}
    assert len(coins) == 2541
    assert prices(bench) == {id_: coin["quotes"]["USD"]["price"] for id_, coin in coins.items()}
    assert run["status"] == "succeeded"
    unknown = bench.rows("SELECT count(*) AS all, count(market_cap) AS caps, count(max_supply) AS max FROM quotes")
    assert dict(unknown[0]) == {"all": 2541, "caps": 2541 - 680, "max": 2541 - 1998}


def test_coins_of_one_source_with_the_same_symbol_stay_separate_assets(bench: Bench, real_data: Path) -> None:
    bench.ingest(recorded(coinpaprika.source, real_data / "coinpaprika" / "tickers.full.2019-09-06.usd.json"))
    assert bench.one("SELECT count(DISTINCT asset) FROM listings") == 2541


def test_a_page_of_coingeckos_markets_loads(bench: Bench, real_data: Path) -> None:
    recording = real_data / "coingecko" / "markets.p1.250.2022.json"
    run = bench.ingest(recorded(coingecko.source, recording))
    coins = json.loads(recording.read_text(), parse_float=Decimal)
    assert run["status"] == "succeeded"
    assert prices(bench) == {coin["id"]: coin["current_price"] for coin in coins}
    assert len(coins) == 250


def test_a_coin_in_two_upstreams_is_one_asset(bench: Bench, real_data: Path) -> None:
    bench.ingest(recorded(coinpaprika.source, real_data / "coinpaprika" / "tickers.full.2019-09-06.usd.json"))
    bench.ingest(recorded(coingecko.source, real_data / "coingecko" / "markets.p1.250.2022.json"))
    rows = bench.rows("""
        SELECT source, source_asset_id FROM listings JOIN assets ON assets.id = asset WHERE slug = 'bitcoin' ORDER BY 1
    """)
    assert [tuple(row.values()) for row in rows] == [("coingecko", "bitcoin"), ("coinpaprika", "btc-bitcoin")]


def test_every_real_csv_file_loads_except_for_its_invalid_rows(
    bench: Bench, database_url: str, real_data: Path
) -> None:
    source = csv_files.source("csv_real", timedelta(minutes=15), [file.declared for file in FILES])
    without_timeout = replace(bench, engine=make_engine(database_url, "test"))
    with environment(CSV_DIR=str(real_data / "csv")):
        run = without_timeout.ingest(source)
    without_timeout.engine.dispose()
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
        file.name: (file.quotes, sum(file.rejects.values()), file.blank) for file in FILES if "empty" not in file.name
    }
    assert bench.one("SELECT count(*) FROM rejects") == sum(sum(file.rejects.values()) for file in FILES)
