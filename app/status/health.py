"""Serve /health: check every component of the service, in at most three seconds even if several are down."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple

import structlog
from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from app.sources.run_history import run_histories
from app.status.clock_check import check_clock_difference
from app.web.arguments import Envelope, Resource
from app.web.context import PROBE_TIMEOUT, Context, context
from app.web.formats import Instant
from settings import Settings
from sources.registry import SOURCES
from tasks.runs.claims import DISK_FULL
from tasks.runtime.broker import broker_accepts_writes, heartbeat_timeout
from tasks.upstream.circuit_breaker import CLOSED, BreakerState, read_breakers

log = structlog.get_logger(__name__)

COMPONENTS = ("worker", "control", "beat")
"""Processes that write heartbeats."""


class _Pause(NamedTuple):
    """An active pause. until: None if it lasts until the source is resumed."""

    reason: str
    until: datetime | None


blueprint = Resource("health", __name__, url_prefix="/health", description="Health of every component of the service.")


class CheckSchema(Schema):
    """The health of one component."""

    partial_response = True

    status = fields.String(required=True, metadata={"enum": ["ok", "degraded", "down", "unknown"]})
    detail = fields.String(allow_none=True, metadata={"description": "The problem, unless the status is `ok`."})
    last_seen = Instant(
        allow_none=True, metadata={"description": "Time of the last heartbeat; for a source, the end of its last run."}
    )
    age_seconds = fields.Float(
        allow_none=True,
        metadata={"description": "Seconds since the last heartbeat; for a queued run, seconds since it became due."},
    )


class SourceCheckSchema(CheckSchema):
    """The health of one source."""

    last_run_status = fields.String(allow_none=True, metadata={"description": "Status of the last finished run."})
    paused_until = Instant(
        allow_none=True,
        metadata={
            "description": "End of the pause; null if it lasts until the source is resumed. Absent without a pause."
        },
    )


class ChecksSchema(Schema):
    """The health of every component."""

    database = fields.Nested(
        CheckSchema,
        metadata={"description": "`degraded` while sources are paused because the database's disk is full."},
    )
    clock = fields.Nested(
        CheckSchema,
        metadata={"description": "`degraded` after the database's clock went back, until the clocks agree again."},
    )
    broker = fields.Nested(CheckSchema, metadata={"description": "Whether Redis accepts writes."})
    worker = fields.Nested(
        CheckSchema,
        metadata={"description": "Whether a worker recently consumed a canary message or committed a page."},
    )
    control = fields.Nested(CheckSchema, metadata={"description": "Whether the reconciler ran recently."})
    beat = fields.Nested(CheckSchema, metadata={"description": "Whether the schedule advanced recently."})
    oldest_queued_run = fields.Nested(
        CheckSchema, metadata={"description": "`degraded` if a run has been due for too long."}
    )
    sources = fields.Dict(keys=fields.String(), values=fields.Nested(SourceCheckSchema))


class HealthResponse(Envelope):
    """The health of the service."""

    status = fields.String(
        required=True,
        metadata={
            "enum": ["ok", "degraded", "down"],
            "description": "`down` if the database is down; `degraded` if any other component has a problem.",
        },
    )
    checks = fields.Nested(ChecksSchema)


class LiveResponse(Envelope):
    """The liveness of the process."""

    status = fields.String(required=True, metadata={"enum": ["ok"]})


@blueprint.route("")
@blueprint.without_query
@blueprint.response(200, HealthResponse)
@blueprint.alt_response(503, schema=HealthResponse, description="The database is down.")
@blueprint.doc(operationId="getHealth")
def get_health() -> tuple[Response, int]:
    """Check the health of every component

    Returns 200 while the service can serve requests, even if `degraded`, and 503 while it cannot.
    """
    checks = _run_checks(context())
    status = _overall_status(checks)
    return jsonify(HealthResponse().dump({"status": status, "checks": checks})), 503 if status == "down" else 200


@blueprint.route("/live")
@blueprint.response(200, LiveResponse)
@blueprint.doc(operationId="getLiveness", security=[])
def live() -> dict[str, str]:
    """Check that this process responds

    Use it as a container's liveness probe. It checks neither the database nor the broker.
    """
    return {"status": "ok"}


def _run_checks(context: Context) -> dict[str, Any]:
    """Return the members of ChecksSchema. The database and the broker share one deadline."""
    deadline = monotonic() + PROBE_TIMEOUT
    database_probe = context.database_probes.submit(_check_database, context)
    broker_probe = context.broker_probes.submit(broker_accepts_writes)
    database_checks, problem = _probe_result(database_probe, deadline)
    is_broker_ok, _ = _probe_result(broker_probe, deadline)
    broker = {"status": "ok"} if is_broker_ok else {"status": "down", "detail": _BROKER_DOWN}
    if database_checks:
        return {"broker": broker, **database_checks}
    unknown = {"status": "unknown", "detail": "The database is down."}
    return {
        "database": {"status": "down", "detail": problem},
        "broker": broker,
        **dict.fromkeys(("clock", *COMPONENTS, "oldest_queued_run"), unknown),
        "sources": dict.fromkeys(SOURCES, unknown),
    }


_BROKER_DOWN = "Redis does not respond or refuses writes. Requested runs wait until it is back."


def _probe_result(probe: Future[Any], deadline: float) -> tuple[Any, str | None]:
    """Return the probe's result and None, or None and the problem."""
    try:
        return probe.result(timeout=max(0.0, deadline - monotonic())), None
    except FutureTimeout:
        return None, f"No response within {PROBE_TIMEOUT:g} s."
    except SQLAlchemyError as error:
        log.warning("health_check_failed", reason=type(error).__name__)
        return None, "It is unreachable or lacks Kasparro's tables. Check DATABASE_URL, or run `alembic upgrade head`."


def _check_database(context: Context) -> dict[str, Any]:
    """Return every check that reads the database."""
    with context.prober.connect() as connection:
        pauses = _active_pauses(connection)
        return {
            "database": _disk_check(pauses),
            "clock": check_clock_difference(connection),
            **_heartbeat_checks(connection, context.settings),
            "oldest_queued_run": _queue_check(connection, context.settings),
            "sources": _source_checks(connection, context.settings, pauses),
        }


def _active_pauses(connection: Connection) -> Mapping[str, _Pause]:
    """Return the active pauses by source."""
    rows = connection.execute(
        text("""
            SELECT name, paused_reason, paused_until FROM sources
             WHERE paused_reason IS NOT NULL AND (paused_until IS NULL OR paused_until > service_time())
             ORDER BY name
        """)
    )
    return {row.name: _Pause(row.paused_reason, row.paused_until) for row in rows}


def _disk_check(pauses: Mapping[str, _Pause]) -> dict[str, Any]:
    sources = [name for name, pause in pauses.items() if pause.reason.startswith(f"{DISK_FULL}:")]
    if not sources:
        return {"status": "ok"}
    return {"status": "degraded", "detail": f"Its disk is full; paused sources: {', '.join(sources)}."}


def read_heartbeats(connection: Connection) -> dict[str, tuple[Any, float]]:
    """Return the time and age in seconds of each component's last heartbeat. A committed page is one of the worker."""
    rows = connection.execute(
        text("""
            SELECT part, max(at) AS at, extract(epoch FROM service_time() - max(at))::float8 AS age
              FROM (SELECT part, beaten_at AS at FROM heartbeats
                    UNION ALL SELECT 'worker', max(committed_at) FROM pages) AS beats
             WHERE at IS NOT NULL GROUP BY part
        """)
    )
    return {row.part: (row.at, max(0.0, row.age)) for row in rows}


def _heartbeat_checks(connection: Connection, settings: Settings) -> dict[str, Any]:
    heartbeats, timeout = read_heartbeats(connection), heartbeat_timeout(settings)
    return {name: _heartbeat_check(heartbeats.get(name), timeout) for name in COMPONENTS}


def _heartbeat_check(heartbeat: tuple[Any, float] | None, timeout: float) -> dict[str, Any]:
    if heartbeat is None:
        return {"status": "down", "detail": "No heartbeat received yet.", "last_seen": None, "age_seconds": None}
    at, age = heartbeat
    check = {"last_seen": at, "age_seconds": round(age, 3)}
    if age <= timeout:
        return {"status": "ok", **check}
    return {"status": "down", **check, "detail": f"No heartbeat for more than {timeout:g} s."}


def oldest_queued_age(connection: Connection) -> float | None:
    """Return the seconds since the oldest unclaimed run became due, or None if there is none.

    A run between two slices has been due since its last slice started.
    """
    age = connection.scalar(
        text("""
            SELECT extract(epoch FROM service_time()
                           - min(greatest(requested_at, claimed_at, next_attempt_at)))::float8
              FROM runs WHERE status = 'queued' OR status = 'waiting' AND next_attempt_at <= service_time()
        """)
    )
    return None if age is None else max(0.0, age)


def _queue_check(connection: Connection, settings: Settings) -> dict[str, Any]:
    age, limit = oldest_queued_age(connection), settings.task_slice + heartbeat_timeout(settings)
    check = {"status": "ok", "age_seconds": None if age is None else round(age, 3)}
    if age is None or age <= limit:
        return check
    detail = f"A run has been due for more than {limit:g} s. Check the workers, or add some."
    return {**check, "status": "degraded", "detail": detail}


def _source_checks(connection: Connection, settings: Settings, pauses: Mapping[str, _Pause]) -> dict[str, Any]:
    breakers = read_breakers(connection, settings)
    late_details = {row.source: row.detail for row in connection.execute(_LATE_SOURCES)}
    checks = {}
    for name, history in run_histories(connection, list(SOURCES)).items():
        check = _with_lateness(_last_run_check(history), late_details.get(name))
        check = _with_breaker(check, breakers.get(name, CLOSED))
        checks[name] = _with_pause(check, pauses.get(name))
    return checks


_LATE_SOURCES = text("SELECT source, detail FROM anomalies WHERE kind = 'late' AND over_at IS NULL")


def _last_run_check(history: Mapping[str, Any]) -> dict[str, Any]:
    success, failure = history["last_success"], history["last_failure"]
    finished = [run for run in (success, failure) if run]
    if not finished:
        return {"status": "unknown", "detail": "No run has finished yet.", "last_run_status": None}
    last = max(finished, key=lambda run: run["requested_at"])
    check = {"status": "ok", "last_run_status": last["status"], "last_seen": last["finished_at"]}
    if last is success:
        return check
    return {**check, "status": "degraded", "detail": f"The last run failed: {last['code']}."}


def _with_lateness(check: dict[str, Any], detail: str | None) -> dict[str, Any]:
    # The error of a failed run explains more than the fact that the source is late.
    if detail is None or check["status"] == "degraded":
        return check
    return {**check, "status": "degraded", "detail": f"It has fallen behind: {detail}."}


def _with_breaker(check: dict[str, Any], breaker: BreakerState) -> dict[str, Any]:
    if breaker.state == "closed":
        return check
    state = breaker.state.replace("_", "-")
    next_request = (
        f"no requests until {breaker.until:%Y-%m-%dT%H:%M:%SZ}" if breaker.until else "one trial request allowed"
    )
    detail = f"Circuit breaker {state} after {breaker.failures} failed requests in a row: {next_request}."
    return {**check, "status": "degraded", "detail": detail}


def _with_pause(check: dict[str, Any], pause: _Pause | None) -> dict[str, Any]:
    # A pause by an operator also degrades the check, since a paused source loads no data.
    if pause is None:
        return check
    end = f"{pause.until:%Y-%m-%dT%H:%M:%SZ}" if pause.until else "it is resumed"
    detail = f"Paused until {end}: {pause.reason}"
    return {**check, "status": "degraded", "detail": detail, "paused_until": pause.until}


def _overall_status(checks: Mapping[str, Any]) -> str:
    if checks["database"]["status"] == "down":
        return "down"
    components = [check for name, check in checks.items() if name != "sources"] + list(checks["sources"].values())
    return "ok" if all(check["status"] in ("ok", "unknown") for check in components) else "degraded"
