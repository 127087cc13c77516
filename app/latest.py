"""/data/latest: what each listing, or each asset, is worth now."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from marshmallow import fields
from sqlalchemy import Subquery, select, true, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from app import cursor
from app.conditional import ETAG, give_only_if_modified
from app.filters import ListingQuery, conditions
from app.quotes import Columns, Members, QuoteSchema, as_json
from app.resource import LINK, Enveloped, OneOf, Pagination, Resource, raw_list
from app.state import reading
from store.tables import LatestQuote, Listing, Quote

ListingKey = tuple[cursor.Id]
AssetKey = tuple[cursor.BigId, cursor.Word]

blueprint = Resource(
    "latest", __name__, url_prefix="/data/latest", description="What each listing, or asset, is worth now."
)


class LatestQuery(ListingQuery):
    """Which listings' newest quotes."""

    per = OneOf(
        ("listing", "asset"),
        load_default="listing",
        metadata={"description": "One row a listing, or one an asset and currency: the newest across sources."},
    )
    members = Members(data_key="fields")


class LatestPage(Enveloped):
    data = fields.List(fields.Nested(QuoteSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


@blueprint.route("", tags=["data"])
@blueprint.arguments(LatestQuery, location="query")
@blueprint.response(200, LatestPage, headers=LINK | ETAG)
@blueprint.alt_response(304, description="You have this answer already.", headers=ETAG)
@blueprint.doc(operationId="listLatestQuotes")
def list_latest(arguments: dict[str, Any]) -> Response:
    """The newest quotes

    One for each listing, in a fixed order that new quotes do not change. With `per=asset` one for each asset and quote
    currency: the newest that any source has.
    """
    per_asset, limit = arguments["per"] == "asset", arguments["limit"]
    key = ("asset", "quote_currency") if per_asset else ("listing_id",)

    def order(row: Columns) -> list[Any]:
        return [getattr(row, name) for name in key]

    with reading() as connection:
        give_only_if_modified(connection, arguments)
        newest = _newest().where(*conditions(connection, arguments))
        newest = _per_asset(newest, arguments) if per_asset else _per_listing(newest, arguments)
        rows = _quotes(newest.limit(limit + 1).subquery("newest"))
        found = connection.execute(as_json(rows, arguments["members"], limit, order, key)).one()
    following = None
    if found.has_more:
        following = cursor.encode(request.path, arguments, [getattr(found, name) for name in key])
    return raw_list(
        found.data, {"pagination": {"limit": limit, "next_cursor": following, "has_more": found.has_more}}, following
    )


def _newest() -> Any:
    return select(LatestQuote, Listing.asset, Listing.quote_currency).join(
        Listing, Listing.id == LatestQuote.listing_id
    )


def _quotes(newest: Subquery) -> Subquery:
    # With its own limit, each is looked up by its key; a plain join was planned as a scan of all quotes.
    of_one = select(Quote).where(Quote.listing_id == newest.c.listing_id, Quote.observed_at == newest.c.observed_at)
    quote = of_one.limit(1).lateral("quote_of_one")
    return select(quote, newest.c.asset, newest.c.quote_currency).join(quote, true()).subquery("rows")


def _per_listing(newest: Any, arguments: dict[str, Any]) -> Any:
    if "cursor" in arguments:
        after = cursor.decode(arguments["cursor"], request.path, arguments, ListingKey)
        newest = newest.where(LatestQuote.listing_id > after[0])
    return newest.order_by(LatestQuote.listing_id)


def _per_asset(newest: Any, arguments: dict[str, Any]) -> Any:
    key = (Listing.asset, Listing.quote_currency)
    if "cursor" in arguments:
        after = cursor.decode(arguments["cursor"], request.path, arguments, AssetKey)
        newest = newest.where(tuple_(*key) > after)
    return newest.ext(distinct_on(*key)).order_by(*key, LatestQuote.observed_at.desc(), Listing.id)
