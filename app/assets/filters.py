"""Select listings by source, asset, symbol and quote currency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from app.web.arguments import ListOf, PageArguments, Text, source_name
from app.web.problems import invalid_parameter, quoted, suggestion
from store.tables import AssetRow, ListingRow, upper_case
from tasks.identity.decisions import ASSETS_BY_SLUG

MAX_SUGGESTED_SLUGS = 2000
"""Maximum number of slugs that are compared with an unknown slug."""

FILTERS = frozenset(("source", "asset", "symbol", "quote_currency"))
"""Parameters that select listings. These listings must be looked up before the quotes."""


class ListingQuery(PageArguments):
    """Parameters that select listings. Subclasses add their own."""

    source = ListOf(source_name(), "Only quotes from this source.")
    asset = ListOf(Text(), "Only quotes of this asset, by its slug.")
    symbol = ListOf(
        Text(max_length=100), "Only quotes with this symbol, in upper or lower case. Assets can share a symbol."
    )
    quote_currency = ListOf(Text(max_length=12), "Only quotes in this currency, in upper or lower case.")


def listing_ids(connection: Connection, arguments: Mapping[str, Any]) -> list[int] | None:
    """Return the ids of the selected listings, or None for all listings. Raise a Problem for an unknown asset."""
    conditions = _listing_conditions(connection, arguments)
    return list(connection.scalars(select(ListingRow.id).where(*conditions))) if conditions else None


def _listing_conditions(connection: Connection, arguments: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if sources := arguments.get("source"):
        conditions.append(ListingRow.source.in_(sources))
    if slugs := arguments.get("asset"):
        conditions.append(ListingRow.asset.in_(asset_ids(connection, slugs)))
    if symbols := arguments.get("symbol"):
        conditions.append(upper_case(ListingRow.symbol).in_([upper_case(symbol) for symbol in symbols]))
    if currencies := arguments.get("quote_currency"):
        conditions.append(ListingRow.quote_currency.in_([currency.upper() for currency in currencies]))
    return conditions


def asset_ids(connection: Connection, slugs: Sequence[str]) -> list[int]:
    """Return the ids of the assets that slugs resolve to. Raise a Problem for an unknown slug."""
    ids = {row.requested: row.id for row in connection.execute(ASSETS_BY_SLUG, {"slugs": list(slugs)})}
    for slug in slugs:
        if slug not in ids:
            raise invalid_parameter("asset", f"there is no asset {quoted(slug)}{nearest_asset(connection, slug)}")
    return list(ids.values())


def nearest_asset(connection: Connection, slug: str) -> str:
    """Return `; did you mean …?` with the most similar slug, or an empty string.

    Compare only slugs that start with the same two characters.
    """
    slugs = select(AssetRow.slug).where(AssetRow.slug.startswith(slug[:2], autoescape=True)).limit(MAX_SUGGESTED_SLUGS)
    return suggestion(slug, connection.scalars(slugs))
