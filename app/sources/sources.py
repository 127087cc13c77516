"""Serve /sources: describe the schedule, limits and progress of each source, and pause and resume sources."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, get_args

from flask import Response
from marshmallow import Schema, fields
from sqlalchemy import Connection, func, select

from app.sources.checkpoints import CheckpointSchema, describe_checkpoint, live_checkpoints
from app.sources.run_history import LAST_FAILURE, LAST_SUCCESS, LIVE_RUN, run_histories
from app.web.arguments import Arguments, NoQuery, Resource, Text
from app.web.context import context, read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from app.web.lists import Pagination, list_response
from app.web.problems import Code, Problem, quoted, suggestion
from sources.contract import CatchUp, Rate, Retention, Source
from sources.registry import BROKEN, SOURCES
from store.tables import SourceRow
from tasks.runs.pausing import pause_source, resume_source
from tasks.runtime.logs import hide_secrets
from tasks.upstream.circuit_breaker import CLOSED, read_breakers

MAX_PAUSE = timedelta(days=366)

blueprint = Resource(
    "sources", __name__, url_prefix="/sources", description="Sources: their schedules, limits and progress."
)


class RateSchema(Schema):
    """The rate limits of the source's upstream; null means no limit."""

    per_minute = fields.Integer(allow_none=True)
    per_month = fields.Integer(allow_none=True)
    used_this_month = fields.Integer(metadata={"description": "Calls in this month (UTC), including retries."})


class RetentionSchema(Schema):
    """How long data is kept, and how much retention has deleted so far."""

    quotes_seconds = fields.Float(
        allow_none=True,
        metadata={
            "description": "Seconds after `observed_at` until a quote is deleted; null: never. "
            "The newest quote of each listing is always kept."
        },
    )
    bodies_seconds = fields.Float(
        allow_none=True,
        metadata={"description": "Seconds until a raw body is deleted after it was last received; null: never."},
    )
    quotes_deleted = fields.Integer(
        metadata={"description": "Number of deleted quotes, including those that a full refresh retracted."}
    )
    bodies_deleted = fields.Integer(metadata={"description": "Number of deleted raw bodies."})


class BreakerSchema(Schema):
    """The circuit breaker of the source's host."""

    state = fields.String(
        metadata={
            "enum": ["closed", "open", "half_open"],
            "description": "`open`: no requests are sent, since too many consecutive requests failed. "
            "`half_open`: one trial request is allowed.",
        }
    )
    failures = fields.Integer(metadata={"description": "Number of consecutive failed requests."})
    until = Instant(
        allow_none=True, metadata={"description": "When the next request is allowed; null if it is allowed now."}
    )


class SourceSchema(Schema):
    """One source."""

    name = fields.String(metadata={"examples": ["coingecko"]})
    status = fields.String(
        metadata={
            "enum": ["ok", "broken"],
            "description": "`broken`: the source's module, declaration or settings are wrong, so it cannot run. "
            "Its stored data can be read. Its other members are null if they are unknown.",
        }
    )
    detail = fields.String(
        allow_none=True, metadata={"description": "What is wrong with a broken source, and where; otherwise null."}
    )
    every_seconds = fields.Float(allow_none=True, metadata={"description": "Seconds between scheduled runs."})
    catch_up = fields.String(
        allow_none=True,
        metadata={
            "enum": [*get_args(CatchUp), None],
            "description": "Which missed slots get a run: only the `latest`, `all` of them, or none (`skip`). "
            "Slots are missed in an outage or a pause.",
        },
    )
    next_run_at = Instant(
        allow_none=True,
        metadata={"description": "The next scheduled slot; null while the source is paused indefinitely."},
    )
    replaces = fields.Boolean(
        metadata={"description": "Whether a full refresh retracts quotes that are no longer in the source's files."}
    )
    paused = fields.Boolean()
    paused_until = Instant(
        allow_none=True, metadata={"description": "End of the pause; null if it lasts until the source is resumed."}
    )
    paused_reason = fields.String(allow_none=True)
    rate = fields.Nested(RateSchema)
    retention = fields.Nested(RetentionSchema)
    breaker = fields.Nested(BreakerSchema)
    checkpoints = fields.List(
        fields.Nested(CheckpointSchema),
        metadata={"description": "Checkpoints of live runs, without those of replays and backfills."},
    )
    last_success = LAST_SUCCESS
    last_failure = LAST_FAILURE
    live_run = LIVE_RUN


class SourceResponse(Envelope, SourceSchema):
    """One source."""


class SourceList(Envelope):
    """All sources."""

    data = fields.List(fields.Nested(SourceSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


class PauseBody(Arguments):
    """The reason for the pause, and its end."""

    reason = Text(max_length=500, required=True, metadata={"description": "Shown in `/sources` and `/health`."})
    until = Instant(
        allow_none=True,
        load_default=None,
        metadata={"description": "End of the pause. Null or absent: until the source is resumed."},
    )


@blueprint.route("")
@blueprint.without_query
@blueprint.response(200, SourceList)
@blueprint.doc(operationId="listSources")
def list_sources() -> Response:
    """List sources"""
    with read_connection() as connection:
        return list_response(SourceSchema(many=True).dump(_describe_sources(connection, _names())), len(_names()), None)


@blueprint.route("/<name>")
@blueprint.without_query
@blueprint.response(200, SourceResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getSource")
def get_source(name: str) -> dict[str, Any]:
    """Get a source"""
    require_source(name)
    return describe_source(name)


@blueprint.route("/<name>/pause", methods=["POST"])
@blueprint.arguments(PauseBody, example={"reason": "The upstream is migrating.", "until": "2027-01-31T12:00:00Z"})
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(200, SourceResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="pauseSource")
def pause(body: dict[str, Any], _: dict[str, Any], name: str) -> dict[str, Any]:
    """Pause a source

    No run of the source makes progress until the pause ends or the source is resumed. A run in progress finishes its
    slice first.
    """
    require_source(name)
    with read_connection() as connection:
        now: datetime = connection.execute(select(func.service_time())).scalar_one()
    if body["until"] is not None and not now < body["until"] <= now + MAX_PAUSE:
        expected = f"expected a time in the next {MAX_PAUSE.days} days; omit `until` to pause without an end"
        raise Problem(
            Code.INVALID_BODY,
            f"until: {expected}",
            errors=[{"in": "body", "name": "until", "detail": expected}],
        )
    pause_source(context().engine, name, body["until"], body["reason"])
    return describe_source(name)


@blueprint.route("/<name>/resume", methods=["POST"])
@blueprint.without_query
@blueprint.response(200, SourceResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="resumeSource")
def resume(name: str) -> dict[str, Any]:
    """Resume a paused source

    Its waiting runs continue immediately.
    """
    require_source(name)
    resume_source(context().engine, name)
    return describe_source(name)


def require_source(name: str) -> None:
    """Raise a Problem if there is no source with this name."""
    if name not in _names():
        raise Problem(Code.UNKNOWN_SOURCE, f"There is no source {quoted(name)}{suggestion(name, _names()) or '.'}")


def _names() -> list[str]:
    return [*SOURCES, *BROKEN]


def describe_source(name: str) -> dict[str, Any]:
    """Return the members of SourceSchema."""
    with read_connection() as connection:
        return _describe_sources(connection, [name])[0]


def _describe_sources(connection: Connection, names: list[str]) -> list[dict[str, Any]]:
    """Return the members of SourceSchema for each source, in the order of the names."""
    now: datetime = connection.execute(select(func.service_time())).scalar_one()
    rows = {row.name: row for row in connection.execute(select(SourceRow).where(SourceRow.name.in_(names)))}
    histories = run_histories(connection, names)
    breakers = read_breakers(connection, context().settings)
    checkpoints = live_checkpoints(connection, names)
    return [
        {
            "name": name,
            **_status(name),
            **_schedule(SOURCES.get(name), rows.get(name), now),
            "rate": _rate(SOURCES.get(name), rows.get(name), now),
            "retention": _retention(SOURCES.get(name), rows.get(name)),
            "breaker": breakers.get(name, CLOSED),
            "checkpoints": [describe_checkpoint(row, now) for row in checkpoints if row.source == name],
            **histories[name],
        }
        for name in names
    ]


def _status(name: str) -> dict[str, Any]:
    if name not in BROKEN:
        return {"status": "ok", "detail": None}
    return {"status": "broken", "detail": hide_secrets(BROKEN[name].detail)}


def _schedule(source: Source | None, row: Any, now: datetime) -> dict[str, Any]:
    until = row.paused_until if row else None
    is_paused = row is not None and row.paused_reason is not None and (until is None or until > now)
    start: Any = until if is_paused and until else now
    return {
        "every_seconds": source and source.every.total_seconds(),
        "catch_up": source and source.catch_up,
        "replaces": source and source.replaces,
        "next_run_at": None
        if source is None or (is_paused and until is None)
        else source.slot_at(start) + source.every,
        "paused": is_paused,
        "paused_until": until if is_paused else None,
        "paused_reason": row.paused_reason if row and is_paused else None,
    }


def _rate(source: Source | None, row: Any, now: datetime) -> dict[str, Any]:
    this_month = now.date().replace(day=1)
    used = row.budget_used if row and row.budget_month and row.budget_month >= this_month else 0
    rate = source.rate if source else Rate()
    return {"per_minute": rate.per_minute, "per_month": rate.per_month, "used_this_month": used}


def _retention(source: Source | None, row: Any) -> dict[str, Any]:
    retention = source.retention if source else Retention()
    quotes, bodies = retention.quotes, retention.bodies
    return {
        "quotes_seconds": quotes and quotes.total_seconds(),
        "bodies_seconds": bodies and bodies.total_seconds(),
        "quotes_deleted": row.quotes_deleted if row else 0,
        "bodies_deleted": row.bodies_deleted if row else 0,
    }
