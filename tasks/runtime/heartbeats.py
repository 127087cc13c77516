"""Record heartbeats in Postgres: the time at which each component last worked."""

from __future__ import annotations

import structlog
from sqlalchemy import Engine, text

from store.errors import describe
from store.schema import explain
from tasks.runtime.database import worker_engine
from tasks.runtime.outdated_schema import schema_log
from tasks.runtime.retry import DATABASE_ERRORS

log = structlog.get_logger()


def send_heartbeat(part: str) -> None:
    """Record a heartbeat for the component that this process runs. Log a warning if the database is unavailable."""
    try:
        record_heartbeat(worker_engine(), part)
    except DATABASE_ERRORS as raised:
        error = explain(worker_engine(), raised)
        if not schema_log.error(error):
            log.warning("heartbeat_failed", part=part, reason=describe(error))


def record_heartbeat(engine: Engine, part: str) -> None:
    """Record a heartbeat for a component: `worker`, `control` or `beat`."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO heartbeats (part, beaten_at) VALUES (:part, service_time())
                ON CONFLICT (part) DO UPDATE SET beaten_at = greatest(heartbeats.beaten_at, excluded.beaten_at)
            """),
            {"part": part},
        )
