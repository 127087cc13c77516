"""Serve /rejects: list, count and export rejected items, and request replays. tasks/pipeline/load.py writes rejects."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from flask import Response, jsonify, request
from marshmallow import Schema, fields
from sqlalchemy import Connection, Select, String, cast, column, func, select, true, tuple_
from sqlalchemy.dialects.postgresql import JSONB

from app.exports.stream import FILE, ROW_COUNT_HEADER, FileRows, csv_file, csv_text, stream_file
from app.runs.reject_schemas import DigestField, RejectPage, RejectSchema, reason_code, reason_field, reject_conditions
from app.runs.submission import RunsAccepted, submit_runs
from app.web import pagination
from app.web.arguments import Arguments, ListOf, NoQuery, OneOf, Resource, source_name
from app.web.context import read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant, sortable_instant_sql
from app.web.lists import LINK_HEADER, PageOrFileArguments, list_response
from app.web.problems import Code, Problem
from sources.registry import SOURCES
from store.tables import REJECT_STATES, PageRow, RejectRow
from tasks.runs.parameters import ReplayParameters
from tasks.runs.requests import RunRequest

blueprint = Resource("rejects", __name__, url_prefix="/rejects", description="Items that could not become quotes.")

RejectKey = tuple[datetime, pagination.Word, pagination.Word, pagination.Id]
"""rejected_at, source, body and item_index of the last row on a page."""

MAX_REASONS = 1000

KEY_COLUMNS = (RejectRow.rejected_at, RejectRow.source, RejectRow.digest, RejectRow.item_index)

CSV_COLUMNS = {
    "source": csv_text(RejectRow.source),
    "body": func.encode(RejectRow.digest, "hex"),
    "item_index": RejectRow.item_index,
    "state": RejectRow.state,
    "rejected_at": sortable_instant_sql(RejectRow.rejected_at),
    "replayed_at": func.coalesce(sortable_instant_sql(RejectRow.replayed_at), ""),
    "reasons": csv_text(cast(RejectRow.reasons, String)),
    "item": csv_text(RejectRow.item),
}
"""Header and cells of the CSV file."""


class RejectArguments(Arguments):
    """Parameters that select rejects."""

    code = reason_code()
    field = reason_field()
    body = DigestField("Only rejects in this body.")
    run = fields.UUID(
        metadata={"description": "Only rejects in pages of this run."},
        error_messages={"invalid_uuid": "expected a run's id, a UUID"},
    )


class ReasonQuery(RejectArguments):
    """Filters of the counts."""

    source = ListOf(source_name(), "Only rejects of this source.")
    state = OneOf(REJECT_STATES, metadata={"description": "Only rejects in this state. Default: both states."})
    rejected_from = Instant(metadata={"description": "Only items rejected at this time or later."})
    rejected_to = Instant(metadata={"description": "Only items rejected before this time."})


class RejectQuery(ReasonQuery, PageOrFileArguments):
    """Filters of the list of rejects, and its format."""

    format = OneOf(
        ("json", "csv"),
        load_default="json",
        metadata={"description": "`json`: in pages. `csv`: all rows in one file."},
    )


class ReplayBody(RejectArguments):
    """The rejects to replay: `{}` selects all. A replay reads the complete bodies that contain them."""

    source = source_name(metadata={"description": "Only rejects of this source.", "examples": ["coingecko"]})


class ReasonCountSchema(Schema):
    """The number of rejects that have a reason with this field and code."""

    source = fields.String()
    field = fields.String()
    code = fields.String()
    quarantined = fields.Integer(metadata={"description": "Number of rejects in quarantine."})
    replayed = fields.Integer(metadata={"description": "Number of rejects that a replay accepted."})
    first_rejected_at = Instant()
    last_rejected_at = Instant()
    detail = fields.String(
        metadata={
            "description": "The detail of one reason with this field and code.",
            "examples": ["expected a price, got none"],
        }
    )


class ReasonCounts(Envelope):
    """Counts of rejects by reason."""

    data = fields.List(fields.Nested(ReasonCountSchema), required=True)
    has_more = fields.Boolean(
        required=True,
        metadata={"description": f"Whether there are more than {MAX_REASONS} rows. Use filters to see the rest."},
    )


@blueprint.route("")
@blueprint.arguments(RejectQuery, location="query")
@blueprint.response(200, RejectPage, headers=LINK_HEADER)
@blueprint.alt_response(200, schema=FILE, content_type="text/csv", headers=ROW_COUNT_HEADER)
@blueprint.alt_response(503, "SERVICE_UNAVAILABLE")
@blueprint.doc(operationId="listRejects")
def list_rejects(arguments: dict[str, Any]) -> Response:
    """List rejects of all sources, newest first

    An item is one reject, even if its body is received several times. The item stays in quarantine until a replay
    accepts it.
    """
    if arguments["format"] == "csv":
        return _export(arguments)
    limit = arguments["limit"]
    with read_connection() as connection:
        rows = connection.execute(_rejects_with_pages(arguments)).mappings().all()
    next_cursor = None
    if len(rows) > limit:
        last = rows[limit - 1]
        key = (last["rejected_at"], last["source"], bytes(last["digest"]).hex(), last["item_index"])
        next_cursor = pagination.encode(request.path, arguments, key)
    rejects = [{**row, "page": row if row["run"] else None} for row in rows[:limit]]
    return list_response(RejectSchema(many=True).dump(rejects), limit, next_cursor)


def _rejects_with_pages(arguments: Mapping[str, Any]) -> Select[Any]:
    """Return a query for one page of rejects and one more row, each with the last page that contained it."""
    query = (
        select(RejectRow)
        .where(*reject_conditions(arguments))
        .order_by(*(column.desc() for column in KEY_COLUMNS))
        .limit(arguments["limit"] + 1)
    )
    if "cursor" in arguments:
        at, source, digest, index = pagination.decode(arguments["cursor"], request.path, arguments, RejectKey)
        query = query.where(tuple_(*KEY_COLUMNS) < (at, source, _bytes(digest), index))
    rejects = query.subquery("rejects")
    page = (
        select(PageRow.run, PageRow.partition, PageRow.seq)
        .where(PageRow.source == rejects.c.source, PageRow.body_digest == rejects.c.digest, PageRow.rejected > 0)
        .order_by(PageRow.fetched_at.desc())
        .limit(1)
        .lateral("page")
    )
    in_order = [rejects.c[column.key].desc() for column in KEY_COLUMNS]
    return select(rejects, page).outerjoin_from(rejects, page, true()).order_by(*in_order)


@blueprint.route("/reasons")
@blueprint.arguments(ReasonQuery, location="query")
@blueprint.response(200, ReasonCounts)
@blueprint.doc(operationId="countRejects")
def count_rejects(arguments: dict[str, Any]) -> Response:
    """Count rejects by source, field and code

    A reject with several reasons counts once for each reason. The most frequent reasons in quarantine come first.
    """
    reasons = (
        func.jsonb_array_elements(RejectRow.reasons)
        .table_valued(column("reason", JSONB))
        .render_derived(name="reasons")
    )
    field, code, detail = (reasons.c.reason.op("->>")(name) for name in ("field", "code", "detail"))
    quarantined = func.count().filter(RejectRow.state == "quarantined").label("quarantined")
    query = (
        select(
            RejectRow.source,
            field.label("field"),
            code.label("code"),
            quarantined,
            func.count().filter(RejectRow.state == "replayed").label("replayed"),
            func.min(RejectRow.rejected_at).label("first_rejected_at"),
            func.max(RejectRow.rejected_at).label("last_rejected_at"),
            func.min(detail).label("detail"),
        )
        .join_from(RejectRow, reasons, true())
        .where(*reject_conditions(arguments))
        .group_by(RejectRow.source, field, code)
        .order_by(quarantined.desc(), RejectRow.source, field, code)
        .limit(MAX_REASONS + 1)
    )
    with read_connection() as connection:
        rows = connection.execute(query).mappings().all()
    counts = ReasonCountSchema(many=True).dump(rows[:MAX_REASONS])
    return jsonify({"data": counts, "has_more": len(rows) > MAX_REASONS})


@blueprint.route("/replay", methods=["POST"])
@blueprint.arguments(
    ReplayBody,
    examples={
        "group": {
            "summary": "Rejects of one source with one reason",
            "value": {"source": "coingecko", "code": "no_price"},
        },
        "run": {"summary": "Rejects of one run", "value": {"run": "0b6f7a5e-6d8a-4a0c-9d0e-5b6c4b0f7a11"}},
        "all": {"summary": "Everything in quarantine", "value": {}},
    },
)
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(202, RunsAccepted)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.alt_response(409, "CONFLICT")
@blueprint.doc(operationId="replayRejects")
def replay_rejects(body: dict[str, Any], _: dict[str, Any]) -> Response:
    """Replay rejects with the current mapping

    Requests one run of kind `replay` for each source with matching rejects in quarantine. The run reads the stored
    bodies again, without requests to the upstream. Items that the mapping accepts become quotes. All others
    stay in quarantine. Existing quotes do not change. Without `source`, sources with `replaces` are left out, because
    they cannot be replayed; request a full refresh for them.
    """
    filters = {name: value for name, value in body.items() if name != "source"}
    parameters = ReplayParameters(rejected=True, **filters)
    with read_connection() as connection:
        sources = _quarantined_sources(connection, body)
    if not sources:
        raise Problem(Code.NO_REJECTS, "No reject in quarantine matches the body of the request.")
    return submit_runs([RunRequest(source, replay=parameters) for source in sources])


def _quarantined_sources(connection: Connection, body: Mapping[str, Any]) -> list[str]:
    """Return the sources to replay, with rejects in quarantine that match the body."""
    source = {"source": [body["source"]]} if "source" in body else {}
    conditions = list(reject_conditions({**body, **source, "state": "quarantined"}))
    if not source:
        conditions.append(RejectRow.source.not_in([name for name in SOURCES if SOURCES[name].replaces]))
    return list(connection.scalars(select(RejectRow.source).where(*conditions).distinct().order_by(RejectRow.source)))


def _export(arguments: Mapping[str, Any]) -> Response:
    conditions = reject_conditions(arguments)

    def find(connection: Connection) -> FileRows:
        total = connection.execute(select(func.count()).select_from(RejectRow).where(*conditions)).scalar_one()
        line = func.concat_ws(",", *CSV_COLUMNS.values())
        lines = select(line).where(*conditions).order_by(*(column.desc() for column in KEY_COLUMNS))
        return FileRows(total, lines, {}, partial(csv_file, list(CSV_COLUMNS)))

    return stream_file("rejects.csv", "text/csv", find)


def _bytes(digest: str) -> bytes:
    """Return the digest in a cursor. Raise a Problem if the cursor was tampered with."""
    try:
        return bytes.fromhex(digest)
    except ValueError:
        raise pagination.damaged() from None
