"""Which listings a reader asks for, by source, asset, symbol and currency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from app.web.arguments import ListOf, PageArguments, Text, source_name
from app.web.problems import invalid_parameter, quoted, suggestion
from store.tables import AssetRow, ListingRow
from tasks.identity.decisions import ASSETS_BY_SLUG

MOST_CANDIDATES = 2000

FILTERS = frozenset(("source", "asset", "symbol", "quote_currency"))
"""The parameters that say which listings: those have to be looked up first."""


class ListingQuery(PageArguments):
    """The parameters; a schema of its own adds its own."""

    source = ListOf(source_name(), "Only of this source.")
    asset = ListOf(Text(), "Only of this asset, by its slug.")
    symbol = ListOf(Text(max_length=100), "Only with this symbol, in any case. Several assets can share one.")
    quote_currency = ListOf(Text(max_length=12), "Only in this currency, in any case.")


def conditions(connection: Connection, arguments: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """What a listing must meet; none where nothing is asked. Raises a Problem for an asset that is not there."""
    found: list[ColumnElement[bool]] = []
    if sources := arguments.get("source"):
        found.append(ListingRow.source.in_(sources))
    if slugs := arguments.get("asset"):
        found.append(ListingRow.asset.in_(asset_ids(connection, slugs)))
    if symbols := arguments.get("symbol"):
        found.append(func.upper(ListingRow.symbol).in_([func.upper(symbol) for symbol in symbols]))
    if currencies := arguments.get("quote_currency"):
        found.append(ListingRow.quote_currency.in_([currency.upper() for currency in currencies]))
    return found


def listing_ids(connection: Connection, arguments: Mapping[str, Any]) -> list[int] | None:
    """The listings that are asked for; None where all are."""
    asked = conditions(connection, arguments)
    return list(connection.scalars(select(ListingRow.id).where(*asked))) if asked else None


def nearest_asset(connection: Connection, slug: str) -> str:
    """`; did you mean …?`, from the assets whose slug begins alike."""
    alike = select(AssetRow.slug).where(AssetRow.slug.startswith(slug[:2], autoescape=True)).limit(MOST_CANDIDATES)
    return suggestion(slug, connection.scalars(alike))


def asset_ids(connection: Connection, slugs: Sequence[str]) -> list[int]:
    """The assets that slugs stand for; raises a Problem for one that is not there."""
    known = {row.asked: row.id for row in connection.execute(ASSETS_BY_SLUG, {"slugs": list(slugs)})}
    for slug in slugs:
        if slug not in known:
            raise invalid_parameter("asset", f"there is no asset {quoted(slug)}{nearest_asset(connection, slug)}")
    return list(known.values())
