"""Test that slugs are plain, readable and unique."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, Engine, event

from sources.record_columns import ListingFields
from tasks.identity.slugs import Slugs
from tests.tasks.assets import query


def listing(name: str, symbol: str = "BTC2", id_: str = "some-id") -> ListingFields:
    return ListingFields(id_, symbol, name, "USD")


def reserve(engine: Engine, *listings: ListingFields) -> list[str]:
    with engine.connect() as connection:
        slugs = Slugs(connection, listings)
        return [slugs.reserve(listing) for listing in listings]


@pytest.mark.parametrize(
    ("fields", "slug"),
    [
        (listing("Bitcoin"), "bitcoin"),
        (listing("  Héllo & Co. (BSC)"), "hello-co-bsc"),
        (listing("美元 币", id_="mei-usd"), "mei-usd"),
        (listing("💩", id_="💩"), "asset"),
    ],
)
def test_a_slug_is_derived_from_the_name_or_otherwise_from_the_id(
    engine: Engine, fields: ListingFields, slug: str
) -> None:
    assert reserve(engine, fields) == [slug]


def test_a_taken_slug_gets_the_symbol_and_then_a_number(engine: Engine) -> None:
    assert reserve(engine, *[listing("Bitcoin")] * 4) == ["bitcoin", "bitcoin-btc2", "bitcoin-btc2-2", "bitcoin-btc2-3"]


def test_slugs_of_stored_assets_are_taken(engine: Engine) -> None:
    for slug in ("bitcoin", "bitcoin-btc2", "bitcoin-btc2-2"):
        query(engine, "INSERT INTO assets (slug, symbol, name) VALUES (:slug, 'BTC', 'Bitcoin')", slug=slug)
    assert reserve(engine, listing("Bitcoin")) == ["bitcoin-btc2-3"]


def test_a_symbol_without_letters_adds_nothing_to_a_slug(engine: Engine) -> None:
    assert reserve(engine, *[listing("Bitcoin", symbol="💩")] * 3) == ["bitcoin", "bitcoin-2", "bitcoin-3"]


def test_thousands_of_listings_with_one_name_need_few_queries(engine: Engine) -> None:
    query(engine, "INSERT INTO assets (slug, symbol, name) VALUES ('pepe-pepe-700', 'PEPE', 'Pepe')")
    statements = []

    def count(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    slugs = reserve(engine, *[listing("Pepe", "PEPE")] * 3000)
    numbers = [number for number in range(2, 3001) if number != 700]
    assert slugs == ["pepe", "pepe-pepe", *(f"pepe-pepe-{number}" for number in numbers)]
    assert len(statements) < 15
