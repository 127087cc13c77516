"""Which listings are of one asset, and which are not."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, text

from tasks.identity.resolver import ListingResolver
from tests.tasks.assets import assets, quote, resolve


@pytest.fixture
def sources(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO sources (name) VALUES ('coinpaprika'), ('coingecko'), ('csv_history')"))


pytestmark = pytest.mark.usefixtures("sources")


def test_the_same_symbol_and_name_in_two_sources_is_one_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("btc-bitcoin", "BTC", "Bitcoin"))
    resolve(engine, "coingecko", quote("bitcoin", "btc", "bitcoin"))
    resolve(engine, "csv_history", quote("BTC/USDT", "BTC", "Bit Coin", "USDT"))
    assert assets(engine) == {"bitcoin": ["btc-bitcoin", "bitcoin", "BTC/USDT"]}


def test_a_shared_symbol_alone_never_makes_one_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("uni-uniswap", "UNI", "Uniswap"))
    resolve(engine, "coingecko", quote("unicorn-token", "uni", "UNICORN Token"))
    assert assets(engine) == {"uniswap": ["uni-uniswap"], "unicorn-token": ["unicorn-token"]}


def test_a_shared_name_alone_never_makes_one_asset(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("frax-frax", "FRAX", "Frax"))
    resolve(engine, "coingecko", quote("frax-share", "fxs", "Frax"))
    assert assets(engine) == {"frax": ["frax-frax"], "frax-fxs": ["frax-share"]}


def test_a_known_pair_of_ids_is_one_asset_whatever_the_names(engine: Engine) -> None:
    resolve(engine, "coingecko", quote("polygon-ecosystem-token", "pol", "POL (ex-MATIC)"))
    resolve(engine, "coinpaprika", quote("pol-polygon-ecosystem-token", "POL", "Polygon Ecosystem Token"))
    assert assets(engine) == {"pol-ex-matic": ["polygon-ecosystem-token", "pol-polygon-ecosystem-token"]}


def test_what_one_source_lists_apart_stays_apart(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("a", "SCC", "StockChain"), quote("b", "SCC", "Stock Chain"))
    assert assets(engine) == {"stockchain": ["a"], "stock-chain": ["b"]}


def test_a_clone_does_not_take_the_real_coins_place(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("btc-bitcoin", "BTC", "Bitcoin"))
    resolve(engine, "coingecko", quote("a-clone", "btc", "Bitcoin"), quote("bitcoin", "btc", "Bitcoin"))
    assert assets(engine)["bitcoin"] == ["btc-bitcoin"]


def test_where_two_assets_fit_the_listing_gets_its_own(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("a", "SCC", "StockChain"), quote("b", "SCC", "Stockchain"))
    resolve(engine, "coingecko", quote("c", "scc", "stockchain"))
    assert assets(engine) == {"stockchain": ["a"], "stockchain-scc": ["b"], "stockchain-scc-2": ["c"]}


def test_of_two_assets_that_fit_the_one_that_fits_better_is_meant(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("a", "INFP", "InfinityPad"), quote("b", "INFP", "Infinity Pad"))
    resolve(engine, "coingecko", quote("c", "infp", "infinity-pad"), quote("d", "infp", "Infinitypad"))
    assert assets(engine) == {"infinitypad": ["a", "d"], "infinity-pad": ["b", "c"]}


def test_another_quote_currency_of_one_id_is_the_same_asset(engine: Engine) -> None:
    resolve(engine, "csv_history", quote("luna", "LUNC", "Terra", "USD"), quote("luna", "LUNC", "Terra", "EUR"))
    assert assets(engine) == {"terra": ["luna", "luna"]}


def test_names_without_a_letter_match_nothing(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("poo", "POO", "💩"))
    resolve(engine, "coingecko", quote("wow", "poo", "!?"))
    assert len(assets(engine)) == 2


def test_names_in_other_scripts_are_names(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("a", "MEI", "美元 币"))
    resolve(engine, "coingecko", quote("b", "mei", "美元币"), quote("c", "mei", "日本円"))
    assert assets(engine) == {"a": ["a", "b"], "c": ["c"]}


def test_a_coin_that_was_renamed_keeps_its_asset(engine: Engine) -> None:
    listings = ListingResolver(engine, "coingecko", overrides={})
    first = listings.resolve([quote("matic-network", "matic", "Polygon")])
    assert listings.resolve([quote("matic-network", "pol", "POL")]) == first
    with engine.connect() as connection:
        assert connection.execute(text("SELECT symbol, name FROM listings")).one() == ("pol", "POL")
    assert assets(engine) == {"polygon": ["matic-network"]}


def test_two_sources_that_meet_the_same_coins_at_once_make_each_once(engine: Engine) -> None:
    coins = [(f"coin-{number}", f"C{number}", f"Coin {number}") for number in range(50)]
    together = threading.Barrier(2)

    def meet(source: str, order: int) -> None:
        together.wait(10)
        resolve(engine, source, *(quote(*coin) for coin in coins[::order]))

    threads = [threading.Thread(target=meet, args=it) for it in (("coinpaprika", 1), ("coingecko", -1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(len(ids) for ids in assets(engine).values()) == [2] * 50
