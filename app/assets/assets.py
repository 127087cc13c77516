"""Serve /assets: assets with their listings in every source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response, request
from marshmallow import Schema, fields
from sqlalchemy import Connection, Row, exists, select

from app.assets.filters import nearest_asset
from app.web import pagination
from app.web.arguments import ListOf, PageArguments, Resource, Text, source_name
from app.web.context import read_connection
from app.web.envelope import Envelope
from app.web.etags import ETAG_HEADER, NOT_MODIFIED, raise_if_not_modified
from app.web.formats import Instant
from app.web.lists import LINK_HEADER, Pagination, list_response
from app.web.problems import Code, Problem, quoted
from store.tables import AssetRow, LatestQuoteRow, ListingRow, upper_case
from tasks.identity.decisions import ASSETS_BY_SLUG

blueprint = Resource(
    "assets", __name__, url_prefix="/assets", description="Assets with their listings in every source."
)


class AssetQuery(PageArguments):
    """Filters of the list of assets."""

    symbol = ListOf(Text(max_length=100), "Only assets with this symbol, in upper or lower case.")
    source = ListOf(source_name(), "Only assets that this source lists.")


class ListingSchema(Schema):
    """An asset as listed by one source in one quote currency."""

    source = fields.String(metadata={"examples": ["coinpaprika"]})
    source_asset_id = fields.String(metadata={"examples": ["btc-bitcoin"]})
    quote_currency = fields.String(metadata={"examples": ["USD"]})
    symbol = fields.String(metadata={"examples": ["BTC"]})
    name = fields.String(metadata={"examples": ["Bitcoin"]})
    method = fields.String(metadata={"description": "How the listing was matched to the asset."})
    confidence = fields.Float(metadata={"description": "Confidence in the match, from 0 to 1."})
    newest = Instant(
        allow_none=True, metadata={"description": "Time of the listing's newest quote; null if it has none."}
    )


class AssetSchema(Schema):
    """One asset, with its listings in all sources."""

    slug = fields.String(metadata={"examples": ["bitcoin"]})
    symbol = fields.String(metadata={"examples": ["BTC"]})
    name = fields.String(metadata={"examples": ["Bitcoin"]})
    listings = fields.List(fields.Nested(ListingSchema))


class AssetResponse(Envelope, AssetSchema):
    """One asset."""


class AssetPage(Envelope):
    """A page of assets."""

    data = fields.List(fields.Nested(AssetSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


@blueprint.route("")
@blueprint.arguments(AssetQuery, location="query")
@blueprint.response(200, AssetPage, headers=LINK_HEADER | ETAG_HEADER)
@blueprint.alt_response(304, description=NOT_MODIFIED, headers=ETAG_HEADER)
@blueprint.doc(operationId="listAssets")
def list_assets(arguments: dict[str, Any]) -> Response:
    """List assets, by slug

    The response includes each asset's listings, and how each listing was matched.
    """
    limit = arguments["limit"]
    query = select(AssetRow).where(AssetRow.merged_into.is_(None)).order_by(AssetRow.slug).limit(limit + 1)
    if symbols := arguments.get("symbol"):
        query = query.where(upper_case(AssetRow.symbol).in_([upper_case(symbol) for symbol in symbols]))
    if sources := arguments.get("source"):
        query = query.where(exists().where(ListingRow.asset == AssetRow.id, ListingRow.source.in_(sources)))
    if "cursor" in arguments:
        query = query.where(
            AssetRow.slug > pagination.decode(arguments["cursor"], request.path, arguments, tuple[pagination.Word])[0]
        )
    with read_connection() as connection:
        raise_if_not_modified(connection, arguments)
        rows = connection.execute(query).all()
        assets = _with_listings(connection, rows[:limit])
    next_cursor = pagination.encode(request.path, arguments, [rows[limit - 1].slug]) if len(rows) > limit else None
    return list_response(AssetSchema(many=True).dump(assets), limit, next_cursor)


@blueprint.route("/<slug>")
@blueprint.without_query
@blueprint.response(200, AssetResponse, headers=ETAG_HEADER)
@blueprint.alt_response(304, description=NOT_MODIFIED, headers=ETAG_HEADER)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getAsset")
def get_asset(slug: str) -> dict[str, Any]:
    """Get an asset

    A merged asset's slug returns the asset that it was merged into.
    """
    with read_connection() as connection:
        raise_if_not_modified(connection, {})
        return asset_response(connection, slug)


def asset_response(connection: Connection, slug: str) -> dict[str, Any]:
    """Return the asset that a slug resolves to, with its listings. Raise a Problem for an unknown slug."""
    asset = connection.execute(ASSETS_BY_SLUG, {"slugs": [slug]}).one_or_none()
    if asset is None:
        raise Problem(Code.UNKNOWN_ASSET, f"There is no asset {quoted(slug)}{nearest_asset(connection, slug) or '.'}")
    return _with_listings(connection, connection.execute(select(AssetRow).where(AssetRow.id == asset.id)).all())[0]


def _with_listings(connection: Connection, assets: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Return the members of AssetSchema for each asset, in the same order."""
    listings: dict[int, list[Any]] = {asset.id: [] for asset in assets}
    query = (
        select(ListingRow, LatestQuoteRow.observed_at.label("newest"))
        .outerjoin(LatestQuoteRow, LatestQuoteRow.listing_id == ListingRow.id)
        .where(ListingRow.asset.in_(listings))
        .order_by(ListingRow.source, ListingRow.source_asset_id, ListingRow.quote_currency)
    )
    for listing in connection.execute(query):
        listings[listing.asset].append(listing)
    return [
        {"slug": asset.slug, "symbol": asset.symbol, "name": asset.name, "listings": listings[asset.id]}
        for asset in assets
    ]
