"""Pause and resume a source on an operator's request, and lift pauses whose cause has been corrected."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from sources.contract import LIFTED_BY_SETTINGS, Source
from sources.http.configuration import is_same_configuration
from tasks.runs.publishing import publish

log = structlog.get_logger()


def pause_source(engine: Engine, source: str, until: datetime | None, reason: str) -> None:
    """Pause a source: start no slice of it until this time. None: until the source is resumed.

    A slice in progress finishes first. Its run then waits.
    """
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO sources (name, paused_until, paused_reason) VALUES (:source, :until, :reason)
                ON CONFLICT (name) DO UPDATE
                   SET paused_until = :until, paused_reason = :reason, paused_configuration = NULL
            """),
            {"source": source, "until": until, "reason": reason},
        )


def resume_source(engine: Engine, source: str) -> None:
    """End the source's pause. Its waiting runs are due immediately."""
    with engine.begin() as connection:
        connection.execute(text(f"{_RESUME} WHERE name = :source"), {"source": source})
        runs = _make_due(connection, source)
    publish(engine, runs)


def lift_outdated_pause(engine: Engine, source: Source) -> bool:
    """End the source's pause if an upstream refused another configuration than that of this process.

    Return whether the pause was lifted. The source's waiting runs are then due immediately.
    """
    with engine.connect() as connection:
        row = connection.execute(_OUTDATED, {"source": source.name, "codes": [*LIFTED_BY_SETTINGS]}).one_or_none()
    if row is None or is_same_configuration(source, bytes(row.paused_configuration)):
        return False
    with engine.begin() as connection:
        # A pause that has been set or lifted in the meantime stays as it is.
        condition = "WHERE name = :source AND paused_configuration = :fingerprint"
        lifted = connection.execute(
            text(f"{_RESUME} {condition}"), {"source": source.name, "fingerprint": row.paused_configuration}
        )
        runs = _make_due(connection, source.name) if lifted.rowcount else []
    if lifted.rowcount:
        log.info("pause_lifted", source=source.name, reason=row.paused_reason)
        publish(engine, runs)
    return bool(lifted.rowcount)


# Store the end of the pause. Lateness is measured from then on (tasks/anomalies/freshness.py).
_RESUME = "UPDATE sources SET paused_until = service_time(), paused_reason = NULL, paused_configuration = NULL"

# The code is compared too: a worker of the previous version sets a reason without its configuration.
_OUTDATED = text("""
    SELECT paused_configuration, paused_reason FROM sources
     WHERE name = :source AND paused_configuration IS NOT NULL
       AND split_part(paused_reason, ':', 1) = ANY(:codes)
       AND (paused_until IS NULL OR paused_until > service_time())
""")


def _make_due(connection: Connection, source: str) -> Sequence[UUID]:
    """Make the waiting runs of a source due now, and return them."""
    return connection.scalars(
        text("""
            UPDATE runs SET next_attempt_at = service_time()
             WHERE source = :source AND status = 'waiting' RETURNING id
        """),
        {"source": source},
    ).all()
