"""Serve /health: check every component of the service, in at most three seconds even if several are down."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from time import monotonic
from typing import Any

import structlog
from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.sources.waiting_records import WAITING_RECORDS
from app.status.clock_check import check_clock_difference
from app.status.database_checks import check_database
from app.status.source_checks import Pause, active_pauses, check_sources
from app.web.arguments import Resource
from app.web.context import PROBE_TIMEOUT, Context, context
from app.web.envelope import Envelope
from app.web.formats import Instant
from settings import Settings
from sources.registry import BROKEN, SOURCES
from store.errors import SchemaBehind
from store.schema import behind, explain, is_behind, read_revision
from tasks.runs.claims import DISK_FULL
from tasks.runtime.broker import broker_accepts_writes, heartbeat_timeout

log = structlog.get_logger(__name__)

COMPONENTS = ("worker", "control", "beat")
"""Processes that write heartbeats."""


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
    waiting_records = WAITING_RECORDS


class ChecksSchema(Schema):
    """The health of every component."""

    database = fields.Nested(
        CheckSchema,
        metadata={
            "description": "`degraded` if its schema is behind, its disk is full, its data violates an integrity "
            "check, or its settings can lose committed data. Also `degraded` after a set-back, until each source has "
            "completed a live run."
        },
    )
    clock = fields.Nested(
        CheckSchema,
        metadata={
            "description": "`degraded` after the database's clock went back, while the service's clock is 1 s or more "
            "ahead of it."
        },
    )
    broker = fields.Nested(CheckSchema, metadata={"description": "Whether Redis accepts writes."})
    worker = fields.Nested(
        CheckSchema,
        metadata={"description": "Whether a worker recently consumed a canary message or committed a page."},
    )
    control = fields.Nested(CheckSchema, metadata={"description": "Whether the reconciler ran recently."})
    beat = fields.Nested(CheckSchema, metadata={"description": "Whether beat recorded a heartbeat recently."})
    oldest_queued_run = fields.Nested(
        CheckSchema, metadata={"description": "`degraded` if no worker has started a due run for too long."}
    )
    sources = fields.Dict(keys=fields.String(), values=fields.Nested(SourceCheckSchema))


class HealthResponse(Envelope):
    """The health of the service."""

    status = fields.String(
        required=True,
        metadata={
            "enum": ["ok", "degraded", "down"],
            "description": "`down` if the database is down; otherwise `degraded` if any check is `degraded` or `down`.",
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
        "sources": dict.fromkeys([*SOURCES, *BROKEN], unknown),
    }


_BROKER_DOWN = "Redis does not respond or refuses writes. Requested runs wait until Redis accepts writes again."


def _probe_result(probe: Future[Any], deadline: float) -> tuple[Any, str | None]:
    """Return the probe's result and None, or None and the problem."""
    try:
        return probe.result(timeout=max(0.0, deadline - monotonic())), None
    except FutureTimeout:
        return None, f"No response within {PROBE_TIMEOUT:g} s."
    except SchemaBehind as error:
        return None, str(error)
    except SQLAlchemyError as error:
        log.warning("health_check_failed", reason=type(error).__name__)
        return None, "It is unreachable or lacks Kasparro's tables. Check DATABASE_URL, or run `alembic upgrade head`."


def _check_database(context: Context) -> dict[str, Any]:
    """Return every check that reads the database. Raise SchemaBehind if the schema is too old."""
    try:
        return _read_checks(context)
    except DBAPIError as error:
        raise explain(context.prober, error) from error


def _read_checks(context: Context) -> dict[str, Any]:
    with context.prober.connect() as connection:
        revision = read_revision(connection)
        pauses = active_pauses(connection)
        return {
            "database": _schema_check(revision) if is_behind(revision) else _database_check(connection, pauses),
            "clock": check_clock_difference(connection),
            **_heartbeat_checks(connection, context.settings),
            "oldest_queued_run": _queue_check(connection, context.settings),
            "sources": check_sources(connection, context.settings, pauses),
        }


def _database_check(connection: Connection, pauses: Mapping[str, Pause]) -> dict[str, Any]:
    without_space = [name for name, pause in pauses.items() if pause.reason.startswith(f"{DISK_FULL}:")]
    return check_database(connection, without_space)


def _schema_check(revision: str | None) -> dict[str, Any]:
    return {"status": "degraded", "detail": str(behind(revision))}


def read_heartbeats(connection: Connection) -> dict[str, tuple[Any, float]]:
    """Return the time and age in seconds of each component's last heartbeat. Committed pages count for the worker."""
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
    """Return the seconds for which the oldest due run has been waiting for a worker, or None if no run is due.

    A run between two slices counts as due since its last slice started.
    """
    age = connection.scalar(
        text("""
            SELECT extract(epoch FROM service_time()
                           - min(greatest(runs.requested_at, runs.claimed_at, runs.next_attempt_at,
                                          earlier.finished_at)))::float8
              FROM runs LEFT JOIN runs AS earlier ON earlier.id = runs.after_run
             WHERE (runs.status = 'queued' OR runs.status = 'waiting' AND runs.next_attempt_at <= service_time())
               AND (earlier.id IS NULL OR earlier.status NOT IN ('queued', 'running', 'waiting'))
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


def _overall_status(checks: Mapping[str, Any]) -> str:
    if checks["database"]["status"] == "down":
        return "down"
    components = [check for name, check in checks.items() if name != "sources"] + list(checks["sources"].values())
    return "ok" if all(check["status"] in ("ok", "unknown") for check in components) else "degraded"
