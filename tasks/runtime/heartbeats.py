"""Heartbeats: each part records in Postgres that it has just worked."""

from __future__ import annotations

import structlog
from sqlalchemy import Engine, text

from store.errors import describe
from tasks.runtime.database import worker_engine
from tasks.runtime.retry import DATABASE_ERRORS

log = structlog.get_logger()


def send_heartbeat(part: str) -> None:
    """Beat a part's heart, unless the database is away: then nobody could look at it either."""
    try:
        record_heartbeat(worker_engine(), part)
    except DATABASE_ERRORS as error:
        log.warning("heartbeat_failed", part=part, reason=describe(error))


def record_heartbeat(engine: Engine, part: str) -> None:
    """Note that a part of the service has just worked."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO heartbeats (part, beaten_at) VALUES (:part, clock_timestamp())
                ON CONFLICT (part) DO UPDATE SET beaten_at = excluded.beaten_at
            """),
            {"part": part},
        )
