"""Pause and resume a source on an operator's request."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Engine, text

from tasks.runs.publishing import publish


def pause_source(engine: Engine, source: str, until: datetime | None, reason: str) -> None:
    """Pause a source: start no slice of it until this time. None: until the source is resumed.

    A slice in progress finishes first. Its run then waits.
    """
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO sources (name, paused_until, paused_reason) VALUES (:source, :until, :reason)
                ON CONFLICT (name) DO UPDATE SET paused_until = :until, paused_reason = :reason
            """),
            {"source": source, "until": until, "reason": reason},
        )


def resume_source(engine: Engine, source: str) -> None:
    """End the source's pause. Its waiting runs are due immediately."""
    with engine.begin() as connection:
        connection.execute(
            # Store the end of the pause. Lateness is measured from then on (tasks/anomalies/freshness.py).
            text("UPDATE sources SET paused_until = service_time(), paused_reason = NULL WHERE name = :source"),
            {"source": source},
        )
        runs = connection.scalars(
            text("""
                UPDATE runs SET next_attempt_at = service_time()
                 WHERE source = :source AND status = 'waiting' RETURNING id
            """),
            {"source": source},
        ).all()
    publish(engine, runs)
