"""/sources: every upstream there is, when it runs next, how far it has come; and the switch to pause it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from flask import Response
from marshmallow import Schema, fields
from sqlalchemy import Connection, Row, func, select

from app.sources.run_history import LAST_FAILURE, LAST_SUCCESS, LIVE_RUN, run_histories
from app.web.arguments import Arguments, Envelope, NoQuery, Pagination, Resource, Text, list_response
from app.web.context import context, read_connection
from app.web.formats import Instant
from app.web.problems import Code, Problem, quoted, suggestion
from sources.contract import CatchUp, Source
from sources.registry import SOURCES
from store.tables import CheckpointRow, SourceRow
from tasks.run_kinds.source_for_run import RESERVED_PREFIXES
from tasks.runs.pausing import pause_source, resume_source
from tasks.upstream.circuit_breaker import CLOSED, read_breakers

LONGEST_PAUSE = timedelta(days=366)

blueprint = Resource(
    "sources", __name__, url_prefix="/sources", description="The upstreams, their schedules and how far each has come."
)


class RateSchema(Schema):
    per_minute = fields.Integer(allow_none=True)
    per_month = fields.Integer(allow_none=True)
    used_this_month = fields.Integer(metadata={"description": "Calls since the month began (UTC), repeats included."})


class RetentionSchema(Schema):
    """How long things are kept, and what was dropped for its age so far."""

    quotes_seconds = fields.Float(
        allow_none=True,
        metadata={"description": "Seconds since it was observed; the newest of each listing stays. Null: for ever."},
    )
    bodies_seconds = fields.Float(
        allow_none=True, metadata={"description": "Seconds since it was last received. Null: for ever."}
    )
    quotes_dropped = fields.Integer()
    bodies_dropped = fields.Integer()


class BreakerSchema(Schema):
    """The circuit breaker of its host."""

    state = fields.String(
        metadata={
            "enum": ["closed", "open", "half_open"],
            "description": "Open: no request is made, so many in a row failed. Half open: the next is a trial.",
        }
    )
    failures = fields.Integer(metadata={"description": "Requests in a row that failed."})
    until = Instant(
        allow_none=True, metadata={"description": "When the next request may be made; null: nothing is in its way."}
    )


class LeaseSchema(Schema):
    run = fields.UUID()
    expires = Instant(allow_none=True)


class CheckpointSchema(Schema):
    """Where the next fetch of a partition starts."""

    partition = fields.String(metadata={"description": "Empty for the whole source."})
    cursor = fields.Dict(allow_none=True, metadata={"description": "The source's own; null: at the start."})
    version = fields.Integer(metadata={"description": "Pages committed to it."})
    updated_at = Instant()
    lease = fields.Nested(LeaseSchema, allow_none=True, metadata={"description": "The run that may write now."})


class SourceSchema(Schema):
    """One upstream."""

    name = fields.String(metadata={"examples": ["coingecko"]})
    every_seconds = fields.Float(metadata={"description": "Seconds between two scheduled runs."})
    catch_up = fields.String(
        metadata={
            "enum": list(get_args(CatchUp)),
            "description": "What the slots that an outage or a pause took get: one run for all, one each, or none.",
        },
    )
    next_run_at = Instant(
        allow_none=True, metadata={"description": "The next slot it runs in; null while paused without an end."}
    )
    paused = fields.Boolean()
    paused_until = Instant(allow_none=True, metadata={"description": "Null while paused: until it is resumed."})
    paused_reason = fields.String(allow_none=True)
    rate = fields.Nested(RateSchema, metadata={"description": "What the upstream allows; null: no limit."})
    retention = fields.Nested(RetentionSchema)
    breaker = fields.Nested(BreakerSchema)
    checkpoints = fields.List(
        fields.Nested(CheckpointSchema), metadata={"description": "Of what is live; of replays and backfills see runs."}
    )
    last_success = LAST_SUCCESS
    last_failure = LAST_FAILURE
    live_run = LIVE_RUN


class SourceAnswer(Envelope, SourceSchema):
    """One upstream."""


class SourceList(Envelope):
    data = fields.List(fields.Nested(SourceSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


class PauseBody(Arguments):
    """Why, and until when."""

    reason = Text(longest=500, required=True, metadata={"description": "Shown wherever the source is."})
    until = Instant(
        allow_none=True, load_default=None, metadata={"description": "Null or absent: until it is resumed."}
    )


@blueprint.route("")
@blueprint.takes_nothing
@blueprint.response(200, SourceList)
@blueprint.doc(operationId="listSources")
def list_sources() -> Response:
    """Every source"""
    with read_connection() as connection:
        return list_response(SourceSchema(many=True).dump(_described(connection, list(SOURCES))), len(SOURCES), None)


@blueprint.route("/<name>")
@blueprint.takes_nothing
@blueprint.response(200, SourceAnswer)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getSource")
def get_source(name: str) -> dict[str, Any]:
    """One source"""
    require_source(name)
    return _one(name)


@blueprint.route("/<name>/pause", methods=["POST"])
@blueprint.arguments(PauseBody, example={"reason": "The upstream is being moved.", "until": "2027-01-31T12:00:00Z"})
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(200, SourceAnswer)
@blueprint.alt_response(400, "BAD_REQUEST")
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.alt_response(413, "REQUEST_ENTITY_TOO_LARGE")
@blueprint.alt_response(415, "UNSUPPORTED_MEDIA_TYPE")
@blueprint.doc(operationId="pauseSource")
def pause(body: dict[str, Any], _: dict[str, Any], name: str) -> dict[str, Any]:
    """Run a source no more, for a while or until it is resumed

    A run that is under way ends its slice and waits.
    """
    require_source(name)
    now = datetime.now(UTC)
    if body["until"] is not None and not now < body["until"] <= now + LONGEST_PAUSE:
        expected = f"expected a time to come, within {LONGEST_PAUSE.days} days; without one the pause has no end"
        raise Problem(
            Code.INVALID_BODY,
            f"until: {expected}",
            errors=[{"in": "body", "name": "until", "detail": expected}],
        )
    pause_source(context().engine, name, body["until"], body["reason"])
    return _one(name)


@blueprint.route("/<name>/resume", methods=["POST"])
@blueprint.takes_nothing
@blueprint.response(200, SourceAnswer)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="resumeSource")
def resume(name: str) -> dict[str, Any]:
    """Run a paused source again; its waiting runs are due at once"""
    require_source(name)
    resume_source(context().engine, name)
    return _one(name)


def require_source(name: str) -> None:
    if name not in SOURCES:
        raise Problem(Code.UNKNOWN_SOURCE, f"There is no source {quoted(name)}{suggestion(name, SOURCES) or '.'}")


def _one(name: str) -> dict[str, Any]:
    with read_connection() as connection:
        return _described(connection, [name])[0]


def _described(connection: Connection, names: list[str]) -> list[dict[str, Any]]:
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    known = {row.name: row for row in connection.execute(select(SourceRow).where(SourceRow.name.in_(names)))}
    history = run_histories(connection, names)
    breakers = read_breakers(connection, context().settings)
    checkpoints = connection.execute(
        select(CheckpointRow)
        .where(
            CheckpointRow.source.in_(names), *[~CheckpointRow.partition.startswith(name) for name in RESERVED_PREFIXES]
        )
        .order_by(CheckpointRow.source, CheckpointRow.partition)
    ).all()
    return [
        {
            "name": name,
            **_schedule(SOURCES[name], known.get(name), now),
            "rate": _rate(SOURCES[name], known.get(name), now),
            "retention": _retention(SOURCES[name], known.get(name)),
            "breaker": breakers.get(name, CLOSED),
            "checkpoints": [_checkpoint(row, now) for row in checkpoints if row.source == name],
            **history[name],
        }
        for name in names
    ]


def _schedule(source: Source, row: Any, now: datetime) -> dict[str, Any]:
    until = row.paused_until if row else None
    paused = row is not None and row.paused_reason is not None and (until is None or until > now)
    endless = paused and until is None
    start: Any = until if paused and until else now
    return {
        "every_seconds": source.every.total_seconds(),
        "catch_up": source.catch_up,
        "next_run_at": None if endless else source.slot_at(start) + source.every,
        "paused": paused,
        "paused_until": until if paused else None,
        "paused_reason": row.paused_reason if row and paused else None,
    }


def _rate(source: Source, row: Any, now: datetime) -> dict[str, Any]:
    this_month = now.date().replace(day=1)
    used = row.budget_used if row and row.budget_month == this_month else 0
    return {"per_minute": source.rate.per_minute, "per_month": source.rate.per_month, "used_this_month": used}


def _retention(source: Source, row: Any) -> dict[str, Any]:
    quotes, bodies = source.retention.quotes, source.retention.bodies
    return {
        "quotes_seconds": quotes and quotes.total_seconds(),
        "bodies_seconds": bodies and bodies.total_seconds(),
        "quotes_dropped": row.quotes_dropped if row else 0,
        "bodies_dropped": row.bodies_dropped if row else 0,
    }


def _checkpoint(row: Row[Any], now: datetime) -> dict[str, Any]:
    held = row.lease_run is not None and row.lease_expires is not None and row.lease_expires > now
    lease = {"run": row.lease_run, "expires": row.lease_expires} if held else None
    return {**row._mapping, "lease": lease}
