"""Sources that have fallen behind: nothing came in for longer than is expected. An anomaly until something does."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import Connection, Engine, text

from sources.contract import Source
from sources.registry import SOURCES

log = structlog.get_logger()

SLOTS = 3
"""A source is expected to bring something in so many slots, unless it says otherwise."""

# A pause that is over counts as a run.
_AGE = text("""
    SELECT clock_timestamp() - greatest(
               coalesce((SELECT finished_at FROM runs
                          WHERE source = :source AND kind = 'live' AND status IN ('succeeded', 'partial')
                          ORDER BY requested_at DESC LIMIT 1),
                        (SELECT min(requested_at) FROM runs WHERE source = :source AND kind = 'live')),
               (SELECT paused_until FROM sources WHERE name = :source AND paused_until <= clock_timestamp())) AS age
""")

_PAUSED = text("""
    SELECT name FROM sources
     WHERE paused_reason IS NOT NULL AND (paused_until IS NULL OR paused_until > clock_timestamp())
""")

_LATE = text("""
    INSERT INTO anomalies (source, kind, value, expected, detail) VALUES (:source, 'late', :age, :expected, :detail)
    ON CONFLICT (source) WHERE kind = 'late' AND over_at IS NULL DO NOTHING
""")

_OVER = text("""
    UPDATE anomalies SET over_at = clock_timestamp() WHERE source = :source AND kind = 'late' AND over_at IS NULL
""")


def expected_within(source: Source) -> timedelta:
    """How old the newest good run of a source may be."""
    return source.fresh or SLOTS * source.every


def record_late_sources(engine: Engine) -> None:
    """Keep which sources have fallen behind, and which no longer have. A paused one is known to bring nothing."""
    with engine.begin() as connection:
        paused = set(connection.scalars(_PAUSED))
        for source in SOURCES.values():
            age: timedelta | None = connection.execute(_AGE, {"source": source.name}).scalar_one()
            if age is None or source.name in paused:
                continue
            if age <= expected_within(source):
                _say_over(connection, source)
            else:
                _say_late(connection, source, age)


def _say_late(connection: Connection, source: Source, age: timedelta) -> None:
    expected = expected_within(source)
    detail = (
        f"nothing came in for {age.total_seconds():.0f} s; a good run is expected every {expected.total_seconds():g} s"
    )
    figures = {"age": age.total_seconds(), "expected": expected.total_seconds()}
    if connection.execute(_LATE, {"source": source.name, "detail": detail, **figures}).rowcount:
        log.warning("anomaly_detected", source=source.name, kind="late", reason=detail)


def _say_over(connection: Connection, source: Source) -> None:
    if connection.execute(_OVER, {"source": source.name}).rowcount:
        log.info("anomaly_ended", source=source.name, kind="late")
