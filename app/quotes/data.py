"""/data: quotes of all sources in one shape, newest first, page by page in constant time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, request
from marshmallow import ValidationError, fields, validates_schema

from app.assets.filters import FILTERS, ListingQuery
from app.exports.stream import FILE, ROW_COUNT_HEADER
from app.quotes.export import FORMATS, INGESTED_UNTIL, export
from app.quotes.fields import Members, QuoteSchema
from app.quotes.selection import Key, Selection
from app.web import pagination
from app.web.arguments import LINK_HEADER, Envelope, OneOf, Pagination, Resource, View, raw_list_response
from app.web.context import context, read_connection
from app.web.etags import ETAG_HEADER, raise_if_not_modified, tag
from app.web.formats import Instant, instant

blueprint = Resource("data", __name__, url_prefix="/data", description="Quotes of all sources in one shape.")

LOOKED_UP = FILTERS | {"run"}
"""Parameters for which something else is read before the page."""


class DataQuery(ListingQuery):
    """Which quotes, in which order."""

    observed_from = Instant(metadata={"description": "Observed at this time or later."})
    observed_to = Instant(metadata={"description": "Observed before this time."})
    ingested_since = Instant(
        metadata={"description": "Written at this time or later: the `ingested_until` of an earlier answer."}
    )
    run = fields.UUID(
        metadata={"description": "Written by this run."}, error_messages={"invalid_uuid": "expected a run's id, a UUID"}
    )
    order = OneOf(
        ("desc", "asc"), load_default="desc", metadata={"description": "By time of observation, then by listing."}
    )
    members = Members(data_key="fields")
    count = OneOf(
        ("estimated", "exact", "none"),
        load_default="estimated",
        metadata={
            "description": "How `pagination.total` is found: by the planner at once, or by counting while few; "
            "always by counting; or not at all."
        },
    )

    format = OneOf(
        ("json", *FORMATS),
        load_default="json",
        metadata={"description": "`json`: page by page. The others: one file of all rows, without limit."},
    )

    @validates_schema(pass_original=True)
    def _is_paged_only_as_json(self, query: dict[str, Any], original: Mapping[str, Any], **_: Any) -> None:
        paging = [name for name in ("limit", "cursor", "count") if name in original]
        if paging and query["format"] != "json":
            detail = f"expected none with format={query['format']}, which is all rows in one file"
            raise ValidationError({name: [detail] for name in paging})


class CountedPagination(Pagination):
    total = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Rows on all pages; null with `count=none`."}
    )
    total_is_estimate = fields.Boolean(required=True)


class QuotePage(Envelope):
    data = fields.List(fields.Nested(QuoteSchema), required=True)
    pagination = fields.Nested(CountedPagination, required=True)
    ingested_until = Instant(
        required=True,
        metadata={
            "description": "Everything written before this time could be seen when this list's first page was read. "
            "Ask for `ingested_since` this time to go on from here: a row may come again, none is missed."
        },
    )


FILE_HEADERS = {
    **ROW_COUNT_HEADER,
    INGESTED_UNTIL: {
        "description": "As `ingested_until` of a page: the file holds everything written before this time.",
        "schema": {"type": "string", "format": "date-time"},
    },
}


def _files(view: View) -> View:
    """Documents the answers that are files."""
    for form in FORMATS.values():
        view = blueprint.alt_response(200, schema=FILE, content_type=form.media_type, headers=FILE_HEADERS)(view)
    return view


@blueprint.route("")
@blueprint.arguments(DataQuery, location="query")
@blueprint.response(200, QuotePage, headers=LINK_HEADER | ETAG_HEADER)
@blueprint.alt_response(304, description="You have this answer already.", headers=ETAG_HEADER)
@_files
@blueprint.alt_response(503, "SERVICE_UNAVAILABLE")
@blueprint.doc(operationId="listQuotes")
def list_quotes(arguments: dict[str, Any]) -> Response:
    """Quotes, newest first

    Any page is as quick as the first: follow `pagination.next_cursor`, or the `Link` header, until `has_more` is false.
    Rows that come in meanwhile move nothing. To follow what is loaded, repeat the request with `ingested_since` set to
    the last answer's `ingested_until`.

    `format=csv`, `ndjson` or `parquet` is one file of every row, as of one moment; `X-Row-Count` says how many there
    are. The file is complete if it has as many: NDJSON ends with `{"complete": true, "rows": …}`, Parquet with its
    footer, and a download that broke off with a broken connection. In CSV, null is an empty cell; in Parquet, times
    are timestamps, and prices and supplies are text, since no decimal type of its holds them all.
    """
    if arguments["format"] != "json":
        return _exported(arguments)
    limit = arguments["limit"]
    after = pagination.decode(arguments["cursor"], request.path, arguments, Key) if "cursor" in arguments else None
    with read_connection() as connection:
        # A page that is all that is read brings its state along.
        if request.if_none_match or not LOOKED_UP.isdisjoint(arguments):
            raise_if_not_modified(connection, arguments)
        until = after[2] if after else context().frontier.ingested_until(connection)
        asked = Selection(connection, arguments)
        found = asked.page(arguments["members"], after)
        tag(arguments, found.state)
        whole = found.rows if after is None and not found.has_more else None
        total, is_estimate = asked.total(arguments["count"], whole)
    following = None
    if found.has_more:
        following = pagination.encode(request.path, arguments, (*found.last, until))
    paging = {"limit": limit, "next_cursor": following, "has_more": found.has_more}
    counted = {"total": total, "total_is_estimate": is_estimate}
    return raw_list_response(found.data, {"pagination": paging | counted, "ingested_until": instant(until)}, following)


def _exported(arguments: dict[str, Any]) -> Response:
    with read_connection() as connection:
        raise_if_not_modified(connection, arguments)
        # Before the snapshot is taken: nothing that was written before it is missing from the file.
        until = context().frontier.ingested_until(connection)
    return export(arguments, until)
