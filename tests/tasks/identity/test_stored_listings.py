"""Test that the stored listings of a source are read by key, and renamed."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tasks.identity.stored_listings import listed_ids, read_listings, rename_listings
from tests.tasks.assets import quote, resolve

pytestmark = pytest.mark.usefixtures("sources")


def test_listings_are_read_by_source_and_key(engine: Engine) -> None:
    resolve(engine, "coingecko", quote("bitcoin", "btc", "Bitcoin"), quote("ether", "eth", "Ether"))
    keys = [("ether", "USD"), ("ether", "EUR")]
    with engine.connect() as connection:
        assert [listing.name for listing in read_listings(connection, "coingecko", keys).values()] == ["Ether"]
        assert list(listed_ids(connection, "coingecko", keys)) == [("ether", "USD")]
        assert listed_ids(connection, "coinpaprika", keys) == {}


def test_only_the_given_currency_of_a_listing_is_renamed(engine: Engine) -> None:
    resolve(engine, "coingecko", quote("pol", "matic", "Polygon"), quote("pol", "matic", "Polygon", "EUR"))
    with engine.begin() as connection:
        rename_listings(connection, "coingecko", [(("pol", "USD"), quote("pol", "pol", "POL"))])
        listings = read_listings(connection, "coingecko", [("pol", "USD"), ("pol", "EUR")])
    assert {key: (listing.symbol, listing.name) for key, listing in listings.items()} == {
        ("pol", "USD"): ("pol", "POL"),
        ("pol", "EUR"): ("matic", "Polygon"),
    }
