"""/assets: the real things, and under which names each source lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response, request
from marshmallow import Schema, fields
from sqlalchemy import Connection, Row, exists, func, select

from app.assets.filters import nearest_asset
from app.web import pagination
from app.web.arguments import (
    LINK_HEADER,
    Envelope,
    ListOf,
    PageArguments,
    Pagination,
    Resource,
    Text,
    list_response,
    source_name,
)
from app.web.context import read_connection
from app.web.etags import ETAG_HEADER, raise_if_not_modified
from app.web.formats import Instant
from app.web.problems import Code, Problem, quoted
from store.tables import AssetRow, LatestQuoteRow, ListingRow
from tasks.identity.decisions import ASSETS_BY_SLUG

blueprint = Resource(
    "assets", __name__, url_prefix="/assets", description="The real things that listings of several sources speak of."
)


class AssetQuery(PageArguments):
    """Which assets."""

    symbol = ListOf(Text(max_length=100), "Only with this symbol, in any case.")
    source = ListOf(source_name(), "Only what this source lists.")


class ListingSchema(Schema):
    """One asset as one source lists it, in one quote currency."""

    source = fields.String(metadata={"examples": ["coinpaprika"]})
    source_asset_id = fields.String(metadata={"examples": ["btc-bitcoin"]})
    quote_currency = fields.String(metadata={"examples": ["USD"]})
    symbol = fields.String(metadata={"examples": ["BTC"]})
    name = fields.String(metadata={"examples": ["Bitcoin"]})
    method = fields.String(metadata={"description": "How it was decided that this is a listing of the asset."})
    confidence = fields.Float(metadata={"description": "How surely, from 0 to 1."})
    newest = Instant(allow_none=True, metadata={"description": "Time of its newest quote."})


class AssetSchema(Schema):
    """One asset, the same across sources."""

    slug = fields.String(metadata={"examples": ["bitcoin"]})
    symbol = fields.String(metadata={"examples": ["BTC"]})
    name = fields.String(metadata={"examples": ["Bitcoin"]})
    listings = fields.List(fields.Nested(ListingSchema))


class AssetAnswer(Envelope, AssetSchema):
    """One asset."""


class AssetPage(Envelope):
    data = fields.List(fields.Nested(AssetSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


@blueprint.route("")
@blueprint.arguments(AssetQuery, location="query")
@blueprint.response(200, AssetPage, headers=LINK_HEADER | ETAG_HEADER)
@blueprint.alt_response(304, description="You have this answer already.", headers=ETAG_HEADER)
@blueprint.doc(operationId="listAssets")
def list_assets(arguments: dict[str, Any]) -> Response:
    """Assets, by slug

    Each with the listings that speak of it, and how each was matched.
    """
    limit = arguments["limit"]
    wanted = select(AssetRow).where(AssetRow.merged_into.is_(None)).order_by(AssetRow.slug).limit(limit + 1)
    if symbols := arguments.get("symbol"):
        wanted = wanted.where(func.upper(AssetRow.symbol).in_([func.upper(symbol) for symbol in symbols]))
    if sources := arguments.get("source"):
        wanted = wanted.where(exists().where(ListingRow.asset == AssetRow.id, ListingRow.source.in_(sources)))
    if "cursor" in arguments:
        wanted = wanted.where(
            AssetRow.slug > pagination.decode(arguments["cursor"], request.path, arguments, tuple[pagination.Word])[0]
        )
    with read_connection() as connection:
        raise_if_not_modified(connection, arguments)
        assets = connection.execute(wanted).all()
        found = _with_listings(connection, assets[:limit])
    following = pagination.encode(request.path, arguments, [assets[limit - 1].slug]) if len(assets) > limit else None
    return list_response(AssetSchema(many=True).dump(found), limit, following)


@blueprint.route("/<slug>")
@blueprint.without_query
@blueprint.response(200, AssetAnswer, headers=ETAG_HEADER)
@blueprint.alt_response(304, description="You have this answer already.", headers=ETAG_HEADER)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getAsset")
def get_asset(slug: str) -> dict[str, Any]:
    """One asset

    The slug of one that was merged into another stands for that one.
    """
    with read_connection() as connection:
        raise_if_not_modified(connection, {})
        return asset_response(connection, slug)


def asset_response(connection: Connection, slug: str) -> dict[str, Any]:
    """The asset that a slug stands for; raises a Problem where there is none."""
    found = connection.execute(ASSETS_BY_SLUG, {"slugs": [slug]}).one_or_none()
    if found is None:
        raise Problem(Code.UNKNOWN_ASSET, f"There is no asset {quoted(slug)}{nearest_asset(connection, slug) or '.'}")
    return _with_listings(connection, connection.execute(select(AssetRow).where(AssetRow.id == found.id)).all())[0]


def _with_listings(connection: Connection, assets: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    of: dict[int, list[Any]] = {asset.id: [] for asset in assets}
    listings = (
        select(ListingRow, LatestQuoteRow.observed_at.label("newest"))
        .outerjoin(LatestQuoteRow, LatestQuoteRow.listing_id == ListingRow.id)
        .where(ListingRow.asset.in_(of))
        .order_by(ListingRow.source, ListingRow.source_asset_id, ListingRow.quote_currency)
    )
    for listing in connection.execute(listings):
        of[listing.asset].append(listing)
    return [{"slug": a.slug, "symbol": a.symbol, "name": a.name, "listings": of[a.id]} for a in assets]
