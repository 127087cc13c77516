"""Serve `/data/origin`: the run, the page and the item that a quote was made from."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import select

from app.web.arguments import Arguments, Resource, Text, source_name
from app.web.context import context, read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from app.web.problems import Code, Problem
from sources.registry import SOURCES
from store.tables import ListingRow, QuoteRow
from tasks.pipeline.normalize import as_text
from tasks.pipeline.origin import Origin, find_origin

blueprint = Resource("origin", __name__, url_prefix="/data/origin", description="The origin of a quote.")


class OriginQuery(Arguments):
    """The key of a quote, with the values that `/data` returns."""

    source = source_name(required=True)
    source_asset_id = Text(required=True, metadata={"description": "The source's own id of the asset."})
    quote_currency = Text(max_length=12, required=True, metadata={"description": "The currency of the quote."})
    observed_at = Instant(required=True, metadata={"description": "The time of the quote."})


class OriginPageSchema(Schema):
    """The stored page that contains the quote."""

    partition = fields.String(metadata={"description": "The partition of the source, such as a file."})
    seq = fields.Integer(metadata={"description": "Number of the page in its run and partition, from 0."})
    request = fields.Dict(
        metadata={"description": "The request to the upstream, or the section of the file that was read."}
    )
    body = fields.String(metadata={"description": "SHA-256 of the page's body. To replay the page, send it as `body`."})
    item_index = fields.Integer(metadata={"description": "Index of the item in the page, from 0."})
    item = fields.String(metadata={"description": "The item as received, as JSON text."})
    file = fields.String(allow_none=True, metadata={"description": "Path of the file, for a source of files."})
    line = fields.Integer(allow_none=True, metadata={"description": "First line of the item in its file, from 1."})


class OriginSchema(Schema):
    """The origin of a quote."""

    run = fields.UUID(metadata={"description": "The run that last wrote the quote."})
    fetched_at = Instant(metadata={"description": "Time when the page was fetched."})
    page = fields.Nested(
        OriginPageSchema,
        allow_none=True,
        metadata={
            "description": "Null if the page's body was deleted, or if the current mapping does not produce the quote."
        },
    )


class OriginResponse(Envelope):
    """The origin of a quote."""

    data = fields.Nested(OriginSchema, required=True)


@blueprint.route("", tags=["data"])
@blueprint.arguments(OriginQuery, location="query")
@blueprint.response(200, OriginResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getOrigin")
def get_origin(arguments: dict[str, Any]) -> Response:
    """Get the origin of a quote: its run, its page, and its item in the page

    For a quote from a file, the response includes the path of the file and the line. To find the item, the service
    reads the stored body of the page again.
    """
    name, observed_at = arguments["source"], arguments["observed_at"]
    key = arguments["source_asset_id"], arguments["quote_currency"].upper()
    with read_connection() as connection:
        quote = connection.execute(
            select(QuoteRow.listing_id, QuoteRow.run, QuoteRow.fetched_at)
            .join(ListingRow, ListingRow.id == QuoteRow.listing_id)
            .where(
                ListingRow.source == name,
                ListingRow.source_asset_id == key[0],
                ListingRow.quote_currency == key[1],
                QuoteRow.observed_at == observed_at,
            )
        ).one_or_none()
        if quote is None:
            raise Problem(Code.UNKNOWN_QUOTE, f"{name} has no quote of this listing at this time.")
        skew = context().settings.clock_skew
        # The mapping of a broken source cannot read the body again.
        source = SOURCES.get(name)
        origin = source and find_origin(connection, source, quote.listing_id, key, observed_at, skew)
    page = origin and _page(origin)
    data = {"run": quote.run, "fetched_at": quote.fetched_at, "page": page}
    return jsonify(OriginResponse().dump({"data": data}))


def _page(origin: Origin) -> dict[str, Any]:
    """Return the members of OriginPageSchema."""
    location = origin.item if isinstance(origin.item, dict) and "file" in origin.request else {}
    return {
        "partition": origin.partition,
        "seq": origin.seq,
        "request": origin.request,
        "body": origin.digest.hex(),
        "item_index": origin.item_index,
        "item": as_text(origin.item),
        "file": location.get("file"),
        "line": location.get("line"),
    }
