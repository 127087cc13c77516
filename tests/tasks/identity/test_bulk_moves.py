"""Test that many listings move at once, with the same result as one after another."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tasks.identity.bulk_moves import Move, move_each
from tasks.identity.decisions import decision_lock
from tests.tasks.assets import assets, by_person, query, quote, resolve

pytestmark = pytest.mark.usefixtures("sources")


def ids(engine: Engine, table: str, name: str) -> dict[str, int]:
    return {row.name: row.id for row in query(engine, f"SELECT id, {name} AS name FROM {table}")}


def test_listings_move_at_once_and_emptied_assets_are_merged(engine: Engine) -> None:
    resolve(engine, "coingecko", *(quote(name, name, name) for name in ("foo", "bar", "baz", "left")))
    listings, slugs = ids(engine, "listings", "source_asset_id"), ids(engine, "assets", "slug")
    targets = {"foo": "bar", "bar": "foo", "baz": "left"}
    with decision_lock(engine) as connection:
        move_each(connection, [])
        move_each(connection, [Move(listings[id_], slugs[slug], by_person("pinned")) for id_, slug in targets.items()])
    assert assets(engine) == {"foo": ["bar"], "bar": ["foo"], "baz": [], "left": ["baz", "left"]}
    merged = query(engine, "SELECT slug, merged_into FROM assets WHERE merged_into IS NOT NULL")
    assert [(row.slug, row.merged_into) for row in merged] == [("baz", slugs["left"])]
    decisions = query(engine, "SELECT DISTINCT change, listing FROM decisions WHERE method = 'pinned'")
    assert len({row.change for row in decisions}) == len({row.listing for row in decisions}) == 3
    with decision_lock(engine) as connection:
        move_each(connection, [Move(listings["baz"], slugs["baz"], by_person("pinned"))])
    assert query(engine, "SELECT 1 FROM assets WHERE merged_into IS NOT NULL") == []
