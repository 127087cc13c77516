"""Serve `/data`: quotes of all sources in one format, in pages or as one file."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from marshmallow import ValidationError, fields, validates_schema

from app.assets.filters import FILTERS, ListingQuery
from app.exports.stream import FILE, ROW_COUNT_HEADER
from app.quotes.export import FORMATS, INGESTED_UNTIL, ROUNDED_COLUMNS, export
from app.quotes.export_columns import NUMBERS
from app.quotes.fields import Members, QuoteSchema
from app.quotes.selection import Key, Selection
from app.web import pagination
from app.web.arguments import OneOf, Resource, View
from app.web.context import context, read_connection
from app.web.envelope import Envelope
from app.web.etags import ETAG_HEADER, NOT_MODIFIED, compute_tag, raise_if_not_modified
from app.web.formats import Instant, instant
from app.web.lists import LINK_HEADER, PageOrFileArguments, Pagination, raw_list_response

blueprint = Resource("data", __name__, url_prefix="/data", description="Quotes of all sources in one format.")

LOOKUP_FILTERS = FILTERS | {"run"}
"""Parameters that need another query before the page is read."""


class DataQuery(ListingQuery, PageOrFileArguments):
    """The filters, the order and the format of a list of quotes."""

    observed_from = Instant(metadata={"description": "Only quotes observed at this time or later."})
    observed_to = Instant(metadata={"description": "Only quotes observed before this time."})
    ingested_since = Instant(
        metadata={
            "description": "Only quotes written at this time or later. To continue from an earlier response, send its "
            "`ingested_until`."
        }
    )
    run = fields.UUID(
        metadata={"description": "Only quotes written by this run."},
        error_messages={"invalid_uuid": "expected the id of a run, a UUID"},
    )
    order = OneOf(
        ("desc", "asc"), load_default="desc", metadata={"description": "Order by `observed_at`, then by listing."}
    )
    members = Members(data_key="fields")
    count = OneOf(
        ("estimated", "exact", "none"),
        load_default="estimated",
        metadata={
            "description": "How to determine `pagination.total`. `estimated`: count up to 10,000 rows, otherwise "
            "take the planner's estimate. `exact`: count all rows. `none`: return null."
        },
    )

    format = OneOf(
        ("json", *FORMATS),
        load_default="json",
        metadata={"description": "`json`: one page. Any other format: one file with all rows."},
    )
    numbers = OneOf(
        NUMBERS,
        metadata={
            "description": "The type of prices, volumes and supplies in a file. `double`: the nearest double, the "
            "default in NDJSON and Parquet. `decimal`: every digit, the default in CSV, and not available in NDJSON. "
            "In Parquet, a column whose values do not fit into 38 digits has doubles, and `<name>_text` has every "
            "digit. `text`: every digit, as strings."
        },
    )
    summary = OneOf(
        ("none", "line"),
        metadata={"description": '`line`: NDJSON ends with the line `{"complete": true, "rows": …}`. Default: `none`.'},
    )

    @validates_schema
    def _reject_options_of_other_formats(self, query: dict[str, Any], **_: Any) -> None:
        format_ = query["format"]
        allowed = FORMATS[format_].numbers if format_ in FORMATS else ()
        errors = {}
        if "numbers" in query and query["numbers"] not in allowed:
            errors["numbers"] = [f"expected {' or '.join(allowed) or 'none'} with format={format_}"]
        if "summary" in query and format_ != "ndjson":
            errors["summary"] = [f"expected none with format={format_}; only NDJSON can have a last line"]
        if errors:
            raise ValidationError(errors)


class CountedPagination(Pagination):
    total = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Number of rows on all pages; null with `count=none`."}
    )
    total_is_estimate = fields.Boolean(required=True)


class QuotePage(Envelope):
    data = fields.List(fields.Nested(QuoteSchema), required=True)
    pagination = fields.Nested(CountedPagination, required=True)
    ingested_until = Instant(
        required=True,
        metadata={
            "description": "Every quote written before this time was visible when the first page was read. Send it as "
            "`ingested_since` to continue from here: a row can be repeated, but none is missed."
        },
    )


FILE_HEADERS = {
    **ROW_COUNT_HEADER,
    INGESTED_UNTIL: {
        "description": "The file contains every matching quote that was written before this time.",
        "schema": {"type": "string", "format": "date-time"},
    },
    ROUNDED_COLUMNS: {
        "description": "Comma-separated names of the columns whose numbers are the nearest doubles. If the header is "
        "missing, every number has all its digits.",
        "schema": {"type": "string"},
    },
}


def _document_files(view: View) -> View:
    """Document the file responses."""
    for format_ in FORMATS.values():
        view = blueprint.alt_response(200, schema=FILE, content_type=format_.media_type, headers=FILE_HEADERS)(view)
    return view


@blueprint.route("")
@blueprint.arguments(DataQuery, location="query")
@blueprint.response(200, QuotePage, headers=LINK_HEADER | ETAG_HEADER)
@blueprint.alt_response(304, description=NOT_MODIFIED, headers=ETAG_HEADER)
@_document_files
@blueprint.alt_response(503, "SERVICE_UNAVAILABLE")
@blueprint.doc(operationId="listQuotes")
def list_quotes(arguments: dict[str, Any]) -> Response:
    """List quotes, newest first

    Follow `pagination.next_cursor`, or the `Link` header, until `has_more` is false. Every page is as fast as the
    first. Rows that are loaded while you page do not shift the pages. To poll for new rows, repeat the request with
    `ingested_since` set to the `ingested_until` of the last response.

    `format=csv`, `ndjson` or `parquet` returns one file with every row, from one snapshot. `X-Row-Count` is the number
    of rows. Compare it with the rows in the file to verify that the file is complete. With `summary=line`, NDJSON also
    ends with `{"complete": true, "rows": …}`. The metadata of Parquet has this number as `kasparro.rows`. If an export
    fails, the connection is reset. In CSV, null is an empty cell. In Parquet, times are timestamps. Numbers are rounded
    to doubles in NDJSON and Parquet, and have every digit in CSV. `numbers` changes this, and `X-Rounded-Columns` lists
    the columns that may be rounded.
    """
    if arguments["format"] != "json":
        return _export(arguments)
    limit = arguments["limit"]
    after = pagination.decode(arguments["cursor"], request.path, arguments, Key) if "cursor" in arguments else None
    with read_connection() as connection:
        # Without If-None-Match and these filters, the query of the page also returns the state of the data.
        if request.if_none_match or not LOOKUP_FILTERS.isdisjoint(arguments):
            raise_if_not_modified(connection, arguments)
        until = after[2] if after else context().watermark.ingested_until(connection)
        selection = Selection(connection, arguments)
        page = selection.page(arguments["members"], after)
        compute_tag(arguments, page.state)
        only_page_rows = page.rows if after is None and not page.has_more else None
        total, is_estimate = selection.total(arguments["count"], only_page_rows)
    cursor = pagination.encode(request.path, arguments, (*page.last, until)) if page.has_more else None
    paging = {"limit": limit, "next_cursor": cursor, "has_more": page.has_more}
    counted = {"total": total, "total_is_estimate": is_estimate}
    return raw_list_response(page.data, {"pagination": paging | counted, "ingested_until": instant(until)}, cursor)


def _export(arguments: dict[str, Any]) -> Response:
    with read_connection() as connection:
        raise_if_not_modified(connection, arguments)
        # Read the watermark before the snapshot, so that the file contains every quote written before this time.
        until = context().watermark.ingested_until(connection)
    return export(arguments, until)
