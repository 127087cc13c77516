"""Test that new listings are assigned to assets by names and ids, and never by the symbol alone."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tasks.identity.assignment import known_pairs
from tests.tasks.assets import assets, query, quote, resolve

pytestmark = pytest.mark.usefixtures("sources")


def test_the_same_symbol_and_name_in_two_sources_is_one_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("btc-bitcoin", "BTC", "Bitcoin"))
    resolve(engine, "coingecko", quote("bitcoin", "btc", "bitcoin"))
    resolve(engine, "csv_history", quote("BTC/USDT", "BTC", "Bit Coin", "USDT"))
    assert assets(engine) == {"bitcoin": ["btc-bitcoin", "bitcoin", "BTC/USDT"]}


def test_a_common_symbol_alone_never_makes_two_listings_one_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("uni-uniswap", "UNI", "Uniswap"))
    resolve(engine, "coingecko", quote("unicorn-token", "uni", "UNICORN Token"))
    assert assets(engine) == {"uniswap": ["uni-uniswap"], "unicorn-token": ["unicorn-token"]}


def test_a_common_name_alone_never_makes_two_listings_one_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("frax-frax", "FRAX", "Frax"))
    resolve(engine, "coingecko", quote("frax-share", "fxs", "Frax"))
    assert assets(engine) == {"frax": ["frax-frax"], "frax-fxs": ["frax-share"]}


def test_a_known_pair_of_ids_is_one_asset_even_with_different_names(engine: Engine) -> None:
    resolve(engine, "coingecko", quote("polygon-ecosystem-token", "pol", "POL (ex-MATIC)"))
    resolve(engine, "coinpaprika", quote("pol-polygon-ecosystem-token", "POL", "Polygon Ecosystem Token"))
    assert assets(engine) == {"pol-ex-matic": ["polygon-ecosystem-token", "pol-polygon-ecosystem-token"]}


def test_two_ids_of_one_source_are_two_assets(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("a", "SCC", "StockChain"), quote("b", "SCC", "Stock Chain"))
    assert assets(engine) == {"stockchain": ["a"], "stock-chain": ["b"]}


def test_two_identical_listings_of_a_source_match_no_existing_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("btc-bitcoin", "BTC", "Bitcoin"))
    resolve(engine, "coingecko", quote("a-clone", "btc", "Bitcoin"), quote("bitcoin", "btc", "Bitcoin"))
    assert assets(engine)["bitcoin"] == ["btc-bitcoin"]


def test_a_listing_that_matches_two_assets_equally_gets_a_new_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("a", "SCC", "StockChain"), quote("b", "SCC", "Stockchain"))
    resolve(engine, "coingecko", quote("c", "scc", "stockchain"))
    assert assets(engine) == {"stockchain": ["a"], "stockchain-scc": ["b"], "stockchain-scc-2": ["c"]}


def test_a_listing_that_matches_two_assets_joins_the_better_match(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("a", "INFP", "InfinityPad"), quote("b", "INFP", "Infinity Pad"))
    resolve(engine, "coingecko", quote("c", "infp", "infinity-pad"), quote("d", "infp", "Infinitypad"))
    assert assets(engine) == {"infinitypad": ["a", "d"], "infinity-pad": ["b", "c"]}


def test_all_quote_currencies_of_one_id_are_the_same_asset(engine: Engine) -> None:
    resolve(engine, "csv_history", quote("luna", "LUNC", "Terra", "USD"), quote("luna", "LUNC", "Terra", "EUR"))
    assert assets(engine) == {"terra": ["luna", "luna"]}


def test_names_without_letters_match_nothing(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("poo", "POO", "💩"))
    resolve(engine, "coingecko", quote("wow", "poo", "!?"))
    assert len(assets(engine)) == 2


def test_names_in_other_scripts_are_compared(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("a", "MEI", "美元 币"))
    resolve(engine, "coingecko", quote("b", "mei", "美元币"), quote("c", "mei", "日本円"))
    assert assets(engine) == {"a": ["a", "b"], "c": ["c"]}


def test_each_decision_is_recorded_with_its_evidence(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("btc-bitcoin", "BTC", "Bitcoin"))
    resolve(engine, "coingecko", quote("bitcoin", "btc", "bitcoin"), quote("bitcoin", "btc", "bitcoin", "EUR"))
    rows = query(
        engine,
        """
        SELECT quote_currency, change, d.method, d.confidence::float8, decided_by, evidence
          FROM decisions AS d JOIN listings ON listings.id = d.listing ORDER BY source DESC, quote_currency
        """,
    )
    like = {"like": {"symbol": "BTC", "name": "Bitcoin", "source_asset_id": "btc-bitcoin"}}
    assert [tuple(row) for row in rows] == [
        ("USD", None, "new", 1.0, "resolver", {}),
        ("EUR", None, "symbol_and_name", 0.95, "resolver", like),
        ("USD", None, "same_id", 1.0, "resolver", {}),
    ]


def test_known_pairs_can_be_looked_up_from_either_source() -> None:
    paprika, gecko = ("coinpaprika", "pol-polygon-ecosystem-token"), ("coingecko", "polygon-ecosystem-token")
    assert known_pairs()[paprika] == (gecko,)
    assert known_pairs()[gecko] == (paprika,)
