"""/rejects: what is in quarantine, of all sources, counted by reason, as a file; and the way out of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flask import Response, jsonify, request
from marshmallow import Schema, ValidationError, fields, validates_schema
from sqlalchemy import Connection, String, cast, column, func, select, true, tuple_
from sqlalchemy.dialects.postgresql import JSONB

from app.exports.stream import FILE, ROW_COUNT_HEADER, FileRows, csv_file, csv_text, stream_file
from app.runs.reject_schemas import DigestField, RejectPage, RejectSchema, reason_code, reason_field, reject_conditions
from app.runs.runs import RunsAccepted, accepted_runs
from app.web import pagination
from app.web.arguments import (
    LINK_HEADER,
    Arguments,
    Envelope,
    ListOf,
    NoQuery,
    OneOf,
    PageArguments,
    Resource,
    list_response,
    source_name,
)
from app.web.context import read_connection
from app.web.formats import Instant, instant_sql
from app.web.problems import Code, Problem
from store.tables import REJECT_STATES, PageRow, RejectRow
from tasks.runs.parameters import ReplayParameters
from tasks.runs.requests import RunRequest

blueprint = Resource("rejects", __name__, url_prefix="/rejects", description="Items that could not become quotes.")

Key = tuple[datetime, pagination.Word, pagination.Word, pagination.Id]
"""rejected_at, source, body and item_index of the last row shown."""

MOST_REASONS = 1000

KEY = (RejectRow.rejected_at, RejectRow.source, RejectRow.digest, RejectRow.item_index)

CSV = {
    "source": csv_text(RejectRow.source),
    "body": func.encode(RejectRow.digest, "hex"),
    "item_index": RejectRow.item_index,
    "state": RejectRow.state,
    "rejected_at": instant_sql(RejectRow.rejected_at),
    "replayed_at": func.coalesce(instant_sql(RejectRow.replayed_at), ""),
    "reasons": csv_text(cast(RejectRow.reasons, String)),
    "item": csv_text(RejectRow.item),
}
"""A line's cells, by the file's header."""


class _Which(Arguments):
    """Which rejects."""

    code = reason_code()
    field = reason_field()
    body = DigestField("Of this body.")
    run = fields.UUID(
        metadata={"description": "That this run came upon."},
        error_messages={"invalid_uuid": "expected a run's id, a UUID"},
    )


class ReasonQuery(_Which):
    source = ListOf(source_name(), "Only of this source.")
    state = OneOf(REJECT_STATES, metadata={"description": "Only in this state. Default: both."})
    rejected_from = Instant(metadata={"description": "First rejected at this time or later."})
    rejected_to = Instant(metadata={"description": "First rejected before this time."})


class RejectQuery(ReasonQuery, PageArguments):
    format = OneOf(
        ("json", "csv"),
        load_default="json",
        metadata={"description": "`json`: page by page. `csv`: one file of all rows, without limit."},
    )

    @validates_schema(pass_original=True)
    def _is_paged_only_as_json(self, query: dict[str, Any], original: Mapping[str, Any], **_: Any) -> None:
        paging = [name for name in ("limit", "cursor") if name in original]
        if paging and query["format"] != "json":
            raise ValidationError({name: ["expected none with format=csv, which is all rows"] for name in paging})


class ReplayBody(_Which):
    """Which rejects' bodies to read again; `{}`: those of all. Each is read whole."""

    source = source_name(metadata={"description": "Only of this source.", "examples": ["coingecko"]})


class ReasonCountSchema(Schema):
    """How many rejects have a reason of this code, of this field."""

    source = fields.String()
    field = fields.String()
    code = fields.String()
    quarantined = fields.Integer()
    replayed = fields.Integer()
    first_rejected_at = Instant()
    last_rejected_at = Instant()
    detail = fields.String(
        metadata={"description": "What one of them says.", "examples": ["expected a price, got none"]}
    )


class ReasonCounts(Envelope):
    data = fields.List(fields.Nested(ReasonCountSchema), required=True)
    has_more = fields.Boolean(
        required=True, metadata={"description": f"Whether there are more than {MOST_REASONS}: then filter."}
    )


@blueprint.route("")
@blueprint.arguments(RejectQuery, location="query")
@blueprint.response(200, RejectPage, headers=LINK_HEADER)
@blueprint.alt_response(200, schema=FILE, content_type="text/csv", headers=ROW_COUNT_HEADER)
@blueprint.alt_response(503, "SERVICE_UNAVAILABLE")
@blueprint.doc(operationId="listRejects")
def list_rejects(arguments: dict[str, Any]) -> Response:
    """Rejects of all sources, newest first

    An item is one reject, however often its body comes. It keeps its place until its body is read again and it passes.
    """
    if arguments["format"] == "csv":
        return _exported(arguments)
    limit = arguments["limit"]
    wanted = (
        select(RejectRow)
        .where(*reject_conditions(arguments))
        .order_by(*(column.desc() for column in KEY))
        .limit(limit + 1)
    )
    if "cursor" in arguments:
        at, source, digest, index = pagination.decode(arguments["cursor"], request.path, arguments, Key)
        wanted = wanted.where(tuple_(*KEY) < (at, source, _bytes(digest), index))
    rejects = wanted.subquery("rejects")
    page = (
        select(PageRow.run, PageRow.partition, PageRow.seq)
        .where(PageRow.source == rejects.c.source, PageRow.body_digest == rejects.c.digest, PageRow.rejected > 0)
        .order_by(PageRow.fetched_at.desc())
        .limit(1)
        .lateral("page")
    )
    in_order = [rejects.c[column.key].desc() for column in KEY]
    with read_connection() as connection:
        rows = connection.execute(
            select(rejects, page).outerjoin_from(rejects, page, true()).order_by(*in_order)
        ).mappings()
        found = [{**row, "page": row if row["run"] else None} for row in rows]
    following = None
    if len(found) > limit:
        last = found[limit - 1]
        key = (last["rejected_at"], last["source"], bytes(last["digest"]).hex(), last["item_index"])
        following = pagination.encode(request.path, arguments, key)
    return list_response(RejectSchema(many=True).dump(found[:limit]), limit, following)


@blueprint.route("/reasons")
@blueprint.arguments(ReasonQuery, location="query")
@blueprint.response(200, ReasonCounts)
@blueprint.doc(operationId="countRejects")
def count_rejects(arguments: dict[str, Any]) -> Response:
    """Rejects counted by source, field and code, the most first

    One that has several reasons counts for each.
    """
    each = (
        func.jsonb_array_elements(RejectRow.reasons).table_valued(column("reason", JSONB)).render_derived(name="each")
    )
    field, code, detail = (each.c.reason.op("->>")(name) for name in ("field", "code", "detail"))
    quarantined = func.count().filter(RejectRow.state == "quarantined").label("quarantined")
    counted = (
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
        .join_from(RejectRow, each, true())
        .where(*reject_conditions(arguments))
        .group_by(RejectRow.source, field, code)
        .order_by(quarantined.desc(), RejectRow.source, field, code)
        .limit(MOST_REASONS + 1)
    )
    with read_connection() as connection:
        rows = connection.execute(counted).mappings().all()
    counts = ReasonCountSchema(many=True).dump(rows[:MOST_REASONS])
    return jsonify({"data": counts, "has_more": len(rows) > MOST_REASONS})


@blueprint.route("/replay", methods=["POST"])
@blueprint.arguments(
    ReplayBody,
    examples={
        "group": {"summary": "All with one reason", "value": {"source": "coingecko", "code": "no_price"}},
        "run": {"summary": "Those of one run", "value": {"run": "0b6f7a5e-6d8a-4a0c-9d0e-5b6c4b0f7a11"}},
        "all": {"summary": "Everything in quarantine", "value": {}},
    },
)
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(202, RunsAccepted)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.alt_response(409, "CONFLICT")
@blueprint.alt_response(413, "REQUEST_ENTITY_TOO_LARGE")
@blueprint.alt_response(415, "UNSUPPORTED_MEDIA_TYPE")
@blueprint.doc(operationId="replayRejects")
def replay_rejects(body: dict[str, Any], _: dict[str, Any]) -> Response:
    """Read the bodies of rejects again, with today's mapping

    One run of kind `replay` for each source that has such rejects. No upstream is asked. A body is read whole: what
    passes now is loaded once, what is loaded already stays as it is, and what still fails keeps its place.
    """
    chosen = {name: value for name, value in body.items() if name != "source"}
    stored = ReplayParameters(rejected=True, **chosen)
    with read_connection() as connection:
        sources = _sources(connection, body)
    if not sources:
        raise Problem(Code.NO_REJECTS, "No reject is in quarantine that this describes.")
    return accepted_runs([RunRequest(source, replay=stored) for source in sources])


def _sources(connection: Connection, body: Mapping[str, Any]) -> list[str]:
    """Those that have such rejects in quarantine."""
    of_source = {"source": [body["source"]]} if "source" in body else {}
    which = reject_conditions({**body, **of_source, "state": "quarantined"})
    return list(connection.scalars(select(RejectRow.source).where(*which).distinct().order_by(RejectRow.source)))


def _exported(arguments: Mapping[str, Any]) -> Response:
    which = reject_conditions(arguments)

    def find(connection: Connection) -> FileRows:
        total = connection.execute(select(func.count()).select_from(RejectRow).where(*which)).scalar_one()
        lines = select(func.concat_ws(",", *CSV.values())).where(*which).order_by(*(column.desc() for column in KEY))
        return FileRows(total, lines, {})

    return stream_file("rejects.csv", "text/csv", find, lambda pieces, _: csv_file(list(CSV), pieces))


def _bytes(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        raise pagination.damaged() from None
