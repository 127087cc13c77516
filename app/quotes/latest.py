"""Serve `/data/latest`: the newest quote of each listing, or of each asset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flask import Response, request
from marshmallow import fields
from sqlalchemy import BigInteger, Integer, Subquery, any_, bindparam, cast, select, true, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, distinct_on

from app.assets.filters import FILTERS, ListingQuery, listing_ids
from app.quotes.fields import LIMIT, Columns, JsonRows, Members, QuoteSchema, rows_as_json
from app.web import pagination
from app.web.arguments import OneOf, Resource
from app.web.context import read_connection
from app.web.envelope import Envelope
from app.web.etags import ETAG_HEADER, NOT_MODIFIED, compute_tag, raise_if_not_modified
from app.web.lists import LINK_HEADER, Pagination, raw_list_response
from app.web.prepared import MAX_PREPARED, PreparedStatement
from store.tables import LatestQuoteRow, ListingRow, QuoteRow

ListingKey = tuple[pagination.Id]
AssetKey = tuple[pagination.BigId, pagination.Word]

blueprint = Resource(
    "latest", __name__, url_prefix="/data/latest", description="The newest quote of each listing or asset."
)


class LatestQuery(ListingQuery):
    """The filters of the newest quotes, and whether to return one for each listing or for each asset."""

    per = OneOf(
        ("listing", "asset"),
        load_default="listing",
        metadata={
            "description": "`listing`: one row per listing. `asset`: one row per asset and quote currency, "
            "the newest of all sources."
        },
    )
    members = Members(data_key="fields")


class LatestPage(Envelope):
    data = fields.List(fields.Nested(QuoteSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


@blueprint.route("", tags=["data"])
@blueprint.arguments(LatestQuery, location="query")
@blueprint.response(200, LatestPage, headers=LINK_HEADER | ETAG_HEADER)
@blueprint.alt_response(304, description=NOT_MODIFIED, headers=ETAG_HEADER)
@blueprint.doc(operationId="listLatestQuotes")
def list_latest(arguments: dict[str, Any]) -> Response:
    """List the newest quotes

    Returns one quote for each listing, in an order that new quotes do not change. With `per=asset`, returns one quote
    for each asset and quote currency: the newest of all sources.
    """
    per_asset, limit = arguments["per"] == "asset", arguments["limit"]
    with read_connection() as connection:
        # Without If-None-Match and these filters, the query of the page also returns the state of the data.
        if request.if_none_match or not FILTERS.isdisjoint(arguments):
            raise_if_not_modified(connection, arguments)
        listings = listing_ids(connection, arguments)
        shape = _Shape(per_asset, all_listings=listings is None, is_first="cursor" not in arguments)
        parameters = {"listings": listings or [], **_after(arguments, per_asset=per_asset)}
        page = JsonRows.of(_page(shape, arguments["members"], limit).row(connection, parameters))
        compute_tag(arguments, page.state)
    cursor = pagination.encode(request.path, arguments, page.last) if page.has_more else None
    paging = {"limit": limit, "next_cursor": cursor, "has_more": page.has_more}
    return raw_list_response(page.data, {"pagination": paging}, cursor)


@dataclass(frozen=True)
class _Shape:
    """The properties that determine the SQL of a page."""

    per_asset: bool
    all_listings: bool
    is_first: bool

    @property
    def key(self) -> tuple[str, ...]:
        return ("asset", "quote_currency") if self.per_asset else ("listing_id",)


@lru_cache(MAX_PREPARED)
def _page(shape: _Shape, members: tuple[str, ...], limit: int) -> PreparedStatement:
    newest = select(LatestQuoteRow, ListingRow.asset, ListingRow.quote_currency).join(
        ListingRow, ListingRow.id == LatestQuoteRow.listing_id
    )
    if not shape.all_listings:
        newest = newest.where(ListingRow.id == any_(cast(bindparam("listings"), ARRAY(Integer))))
    newest = _per_asset(newest, shape) if shape.per_asset else _per_listing(newest, shape)
    rows = _quotes(newest.limit(LIMIT + 1).subquery("newest"))

    def order(row: Columns) -> list[Any]:
        return [getattr(row, name) for name in shape.key]

    return PreparedStatement(rows_as_json(rows, members, order, shape.key, limit))


def _quotes(newest: Subquery) -> Subquery:
    # The limit makes Postgres look up each quote by its key. With a plain join, Postgres would scan all quotes.
    by_key = select(QuoteRow).where(
        QuoteRow.listing_id == newest.c.listing_id, QuoteRow.observed_at == newest.c.observed_at
    )
    quote = by_key.limit(1).lateral("quote")
    return select(quote, newest.c.asset, newest.c.quote_currency).join(quote, true()).subquery("rows")


def _after(arguments: dict[str, Any], *, per_asset: bool) -> dict[str, Any]:
    """Return the parameters that start a page after its cursor; empty for the first page."""
    if "cursor" not in arguments:
        return {}
    kind, names = (AssetKey, ("after_asset", "after_currency")) if per_asset else (ListingKey, ("after_listing",))
    key = pagination.decode(arguments["cursor"], request.path, arguments, kind)
    return dict(zip(names, key, strict=True))


def _per_listing(newest: Any, shape: _Shape) -> Any:
    if not shape.is_first:
        newest = newest.where(LatestQuoteRow.listing_id > bindparam("after_listing"))
    return newest.order_by(LatestQuoteRow.listing_id)


def _per_asset(newest: Any, shape: _Shape) -> Any:
    key = (ListingRow.asset, ListingRow.quote_currency)
    if not shape.is_first:
        newest = newest.where(
            tuple_(*key) > tuple_(bindparam("after_asset", type_=BigInteger), bindparam("after_currency"))
        )
    return newest.ext(distinct_on(*key)).order_by(*key, LatestQuoteRow.observed_at.desc(), ListingRow.id)
