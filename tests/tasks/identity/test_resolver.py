"""Test that the resolver returns listing ids, adds each new listing once, and updates names."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine

from tasks.identity.resolver import ListingResolver
from tests.tasks.assets import assets, query, quote, resolve

pytestmark = pytest.mark.usefixtures("sources")


def test_ids_are_returned_in_the_order_of_the_listings(engine: Engine) -> None:
    resolver = ListingResolver(engine, "coingecko", overrides={})
    bitcoin, ether = quote("bitcoin", "btc", "Bitcoin"), quote("ether", "eth", "Ether")
    first, second = resolver.resolve([ether, bitcoin])
    assert resolver.resolve([bitcoin, ether]) == [second, first]
    assert ListingResolver(engine, "coingecko", overrides={}).resolve([bitcoin]) == [second]


def test_a_renamed_coin_keeps_its_asset(engine: Engine) -> None:
    resolver = ListingResolver(engine, "coingecko", overrides={})
    first = resolver.resolve([quote("matic-network", "matic", "Polygon")])
    assert resolver.resolve([quote("matic-network", "pol", "POL")]) == first
    assert query(engine, "SELECT symbol, name FROM listings") == [("pol", "POL")]
    assert assets(engine) == {"polygon": ["matic-network"]}


def test_an_old_page_does_not_rename_a_listing(engine: Engine) -> None:
    resolve(engine, "coingecko", quote("matic-network", "pol", "POL"))
    ListingResolver(engine, "coingecko", overrides={}, renames=False).resolve(
        [quote("matic-network", "matic", "Polygon")]
    )
    assert query(engine, "SELECT symbol, name FROM listings") == [("pol", "POL")]


def test_two_sources_that_add_the_same_coins_at_once_create_each_asset_once(engine: Engine) -> None:
    coins = [(f"coin-{number}", f"C{number}", f"Coin {number}") for number in range(50)]
    barrier = threading.Barrier(2)

    def add(source: str, order: int) -> None:
        barrier.wait(10)
        resolve(engine, source, *(quote(*coin) for coin in coins[::order]))

    threads = [threading.Thread(target=add, args=arguments) for arguments in (("coinpaprika", 1), ("coingecko", -1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(len(ids) for ids in assets(engine).values()) == [2] * 50
