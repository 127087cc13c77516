"""/health: whether each part works, found out within three seconds however many do not."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooSlow
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple

import structlog
from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from app.sources.run_history import run_histories
from app.web.arguments import Envelope, Resource
from app.web.context import PROBE_TIMEOUT, Context, context
from app.web.formats import Instant
from settings import Settings
from sources.registry import SOURCES
from tasks.runs.claims import DISK_FULL
from tasks.runtime.broker import broker_accepts_writes, heartbeat_timeout
from tasks.upstream.circuit_breaker import CLOSED, BreakerState, read_breakers

log = structlog.get_logger(__name__)

PARTS = ("worker", "control", "beat")


class _Pause(NamedTuple):
    """until: None for until it is resumed."""

    reason: str
    until: datetime | None


blueprint = Resource("health", __name__, url_prefix="/health", description="Whether each part works.")


class CheckSchema(Schema):
    """One part."""

    partial_response = True

    status = fields.String(required=True, metadata={"enum": ["ok", "degraded", "down", "unknown"]})
    detail = fields.String(allow_none=True, metadata={"description": "What is wrong, where something is."})
    last_seen = Instant(allow_none=True, metadata={"description": "When it last showed that it works."})
    age_seconds = fields.Float(allow_none=True)


class SourceCheckSchema(CheckSchema):
    last_run_status = fields.String(allow_none=True, metadata={"description": "How its last finished run ended."})
    paused_until = Instant(
        allow_none=True, metadata={"description": "Absent: it is not paused. Null: paused until it is resumed."}
    )


class ChecksSchema(Schema):
    database = fields.Nested(
        CheckSchema, metadata={"description": "`degraded` while sources are paused because its disk was found full."}
    )
    broker = fields.Nested(CheckSchema)
    worker = fields.Nested(
        CheckSchema, metadata={"description": "A canary was consumed, or a page committed, of late."}
    )
    control = fields.Nested(CheckSchema, metadata={"description": "The reconciler ran of late."})
    beat = fields.Nested(CheckSchema, metadata={"description": "The schedule ticked of late."})
    oldest_queued_run = fields.Nested(CheckSchema, metadata={"description": "age_seconds: how long it has been due."})
    sources = fields.Dict(keys=fields.String(), values=fields.Nested(SourceCheckSchema))


class HealthAnswer(Envelope):
    status = fields.String(
        required=True,
        metadata={
            "enum": ["ok", "degraded", "down"],
            "description": "`down` only where nothing can be served: the database.",
        },
    )
    checks = fields.Nested(ChecksSchema)


class LiveAnswer(Envelope):
    status = fields.String(required=True, metadata={"enum": ["ok"]})


@blueprint.route("")
@blueprint.without_query
@blueprint.response(200, HealthAnswer)
@blueprint.alt_response(503, schema=HealthAnswer, description="The database is down.")
@blueprint.doc(operationId="getHealth")
def get_health() -> tuple[Response, int]:
    """Whether each part works

    200 while it can serve, if degraded; 503 while it cannot.
    """
    checks = _checks(context())
    status = _worst(checks)
    return jsonify(HealthAnswer().dump({"status": status, "checks": checks})), 503 if status == "down" else 200


@blueprint.route("/live")
@blueprint.response(200, LiveAnswer)
@blueprint.doc(operationId="getLiveness", security=[])
def live() -> dict[str, str]:
    """Whether this process answers

    For a container's liveness probe: asks neither the database nor the broker.
    """
    return {"status": "ok"}


def _checks(context: Context) -> dict[str, Any]:
    until = monotonic() + PROBE_TIMEOUT
    database = context.database_probes.submit(_ask_database, context)
    broker = context.broker_probes.submit(broker_accepts_writes)
    found, problem = _outcome(database, until)
    answers, _ = _outcome(broker, until)
    unknown = {"status": "unknown", "detail": "The database does not answer."}
    return {
        "database": {"status": "down", "detail": problem},
        "broker": {"status": "ok"}
        if answers
        else {"status": "down", "detail": "Redis does not answer, or refuses to write; runs asked for wait."},
        **(
            found
            or {**dict.fromkeys((*PARTS, "oldest_queued_run"), unknown), "sources": dict.fromkeys(SOURCES, unknown)}
        ),
    }


def _outcome(asked: Future[Any], until: float) -> tuple[Any, str | None]:
    try:
        return asked.result(timeout=max(0.0, until - monotonic())), None
    except TooSlow:
        return None, f"It did not answer within {PROBE_TIMEOUT:g} s."
    except SQLAlchemyError as error:
        log.warning("health_check_failed", reason=type(error).__name__)
        return None, "It does not answer, or lacks Kasparro's tables."


def _ask_database(context: Context) -> dict[str, Any]:
    with context.prober.connect() as connection:
        paused = _paused(connection)
        return {
            "database": _room(paused),
            **_heartbeats(connection, context.settings),
            "oldest_queued_run": _oldest_queued(connection, context.settings),
            "sources": _sources(connection, context.settings, paused),
        }


def _paused(connection: Connection) -> Mapping[str, _Pause]:
    """By source that is paused now, whoever paused it."""
    rows = connection.execute(
        text("""
            SELECT name, paused_reason, paused_until FROM sources
             WHERE paused_reason IS NOT NULL AND (paused_until IS NULL OR paused_until > clock_timestamp())
             ORDER BY name
        """)
    )
    return {row.name: _Pause(row.paused_reason, row.paused_until) for row in rows}


def _room(paused: Mapping[str, _Pause]) -> dict[str, Any]:
    without = [name for name, pause in paused.items() if pause.reason.startswith(f"{DISK_FULL}:")]
    if not without:
        return {"status": "ok"}
    return {"status": "degraded", "detail": f"Its disk is full; paused because of that: {', '.join(without)}."}


def heartbeats(connection: Connection) -> dict[str, tuple[Any, float]]:
    """By part when it last showed that it works, and how many seconds ago; a page committed is a worker's beat too."""
    rows = connection.execute(
        text("""
            SELECT part, max(at) AS at, extract(epoch FROM clock_timestamp() - max(at))::float8 AS age
              FROM (SELECT part, beaten_at AS at FROM heartbeats
                    UNION ALL SELECT 'worker', max(committed_at) FROM pages) AS beats
             WHERE at IS NOT NULL GROUP BY part
        """)
    )
    return {row.part: (row.at, max(0.0, row.age)) for row in rows}


def _heartbeats(connection: Connection, settings: Settings) -> dict[str, Any]:
    seen, late = heartbeats(connection), heartbeat_timeout(settings)
    return {part: _beat(part, seen.get(part), late) for part in PARTS}


def _beat(part: str, seen: tuple[Any, float] | None, late: float) -> dict[str, Any]:
    if seen is None:
        return {"status": "down", "detail": f"No {part} has shown itself yet.", "last_seen": None, "age_seconds": None}
    at, age = seen
    check = {"status": "ok" if age <= late else "down", "last_seen": at, "age_seconds": round(age, 3)}
    return check if age <= late else {**check, "detail": f"Nothing was heard of it for more than {late:g} s."}


def oldest_queued_age(connection: Connection) -> float | None:
    """Seconds for which the oldest run that no worker has taken could have been taken; since its last slice's start."""
    age = connection.scalar(
        text("""
            SELECT extract(epoch FROM clock_timestamp()
                           - min(greatest(requested_at, claimed_at, next_attempt_at)))::float8
              FROM runs WHERE status = 'queued' OR status = 'waiting' AND next_attempt_at <= clock_timestamp()
        """)
    )
    return None if age is None else max(0.0, age)


def _oldest_queued(connection: Connection, settings: Settings) -> dict[str, Any]:
    age, late = oldest_queued_age(connection), settings.task_slice + heartbeat_timeout(settings)
    check = {"status": "ok", "age_seconds": None if age is None else round(age, 3)}
    if age is not None and age > late:
        return {
            **check,
            "status": "degraded",
            "detail": f"A run has been due for more than {late:g} s: too few workers?",
        }
    return check


def _sources(connection: Connection, settings: Settings, paused: Mapping[str, _Pause]) -> dict[str, Any]:
    breakers = read_breakers(connection, settings)
    late = {row.source: row.detail for row in connection.execute(_LATE)}
    return {
        name: _at_rest(
            _left_alone(_late(_last_run(history), late.get(name)), breakers.get(name, CLOSED)), paused.get(name)
        )
        for name, history in run_histories(connection, list(SOURCES)).items()
    }


def _at_rest(check: dict[str, Any], pause: _Pause | None) -> dict[str, Any]:
    """Nothing new comes in, and who looks here must not have to guess it: an operator's pause is shown as any other."""
    if pause is None:
        return check
    end = f"{pause.until:%Y-%m-%dT%H:%M:%SZ}" if pause.until else "it is resumed"
    detail = f"Paused until {end}: {pause.reason}"
    return {**check, "status": "degraded", "detail": detail, "paused_until": pause.until}


_LATE = text("SELECT source, detail FROM anomalies WHERE kind = 'late' AND over_at IS NULL")


def _late(check: dict[str, Any], detail: str | None) -> dict[str, Any]:
    """A source that has fallen behind; why its last run failed says more."""
    if detail is None or check["status"] == "degraded":
        return check
    return {**check, "status": "degraded", "detail": f"It has fallen behind: {detail}."}


def _left_alone(check: dict[str, Any], breaker: BreakerState) -> dict[str, Any]:
    if breaker.state == "closed":
        return check
    after = f"until {breaker.until:%Y-%m-%dT%H:%M:%SZ}" if breaker.until else "but for one that tries it"
    return {
        **check,
        "status": "degraded",
        "detail": f"{breaker.failures} requests to its host failed in a row; no more are made {after}.",
    }


def _last_run(history: Mapping[str, Any]) -> dict[str, Any]:
    success, failure = history["last_success"], history["last_failure"]
    ended = [run for run in (success, failure) if run]
    if not ended:
        return {"status": "unknown", "detail": "No run of it has finished yet.", "last_run_status": None}
    last = max(ended, key=lambda run: run["requested_at"])
    check = {"status": "ok", "last_run_status": last["status"], "last_seen": last["finished_at"]}
    return (
        check if last is success else {**check, "status": "degraded", "detail": f"Its last run failed: {last['code']}."}
    )


def _worst(checks: Mapping[str, Any]) -> str:
    if checks["database"]["status"] == "down":
        return "down"
    parts = [check for name, check in checks.items() if name != "sources"] + list(checks["sources"].values())
    return "ok" if all(part["status"] in ("ok", "unknown") for part in parts) else "degraded"
