"""Record sources that are late: they had no good run for longer than expected."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import Connection, Engine, text

from sources.contract import Source
from sources.registry import SOURCES

log = structlog.get_logger()

DEFAULT_MAX_SLOTS = 3
"""Slots within which a source must have a good run, unless it declares `fresh`."""

# Time since the last good run, or since the first request if there was none. The end of a pause counts as a good run.
_STALENESS = text("""
    SELECT service_time() - greatest(
               coalesce((SELECT finished_at FROM runs
                          WHERE source = :source AND kind = 'live' AND status IN ('succeeded', 'partial')
                          ORDER BY requested_at DESC LIMIT 1),
                        (SELECT min(requested_at) FROM runs WHERE source = :source AND kind = 'live')),
               (SELECT paused_until FROM sources WHERE name = :source AND paused_until <= service_time()))
           AS staleness
""")

_PAUSED = text("""
    SELECT name FROM sources
     WHERE paused_reason IS NOT NULL AND (paused_until IS NULL OR paused_until > service_time())
""")

_BEGIN_LATE = text("""
    INSERT INTO anomalies (source, kind, value, expected, detail)
    VALUES (:source, 'late', :staleness, :expected, :detail)
    ON CONFLICT (source) WHERE kind = 'late' AND over_at IS NULL DO NOTHING
""")

_END_LATE = text("""
    UPDATE anomalies SET over_at = service_time() WHERE source = :source AND kind = 'late' AND over_at IS NULL
""")


def max_staleness(source: Source) -> timedelta:
    """Return the time within which a source must have a good run."""
    return source.fresh or DEFAULT_MAX_SLOTS * source.every


def record_late_sources(engine: Engine) -> None:
    """Begin an anomaly for each source that became late, and end the anomalies of sources that are no longer late.

    A paused source loads nothing on purpose, so its anomalies stay unchanged.
    """
    with engine.begin() as connection:
        paused = set(connection.scalars(_PAUSED))
        for source in SOURCES.values():
            staleness: timedelta | None = connection.execute(_STALENESS, {"source": source.name}).scalar_one()
            if staleness is None or source.name in paused:
                continue
            if staleness <= max_staleness(source):
                _end_late(connection, source)
            else:
                _begin_late(connection, source, staleness)


def _begin_late(connection: Connection, source: Source, staleness: timedelta) -> None:
    seconds, expected = staleness.total_seconds(), max_staleness(source).total_seconds()
    detail = f"no good run for {seconds:.0f} s; one is expected at least every {expected:g} s"
    values = {"source": source.name, "staleness": seconds, "expected": expected, "detail": detail}
    if connection.execute(_BEGIN_LATE, values).rowcount:
        log.warning("anomaly_detected", source=source.name, kind="late", reason=detail)


def _end_late(connection: Connection, source: Source) -> None:
    if connection.execute(_END_LATE, {"source": source.name}).rowcount:
        log.info("anomaly_ended", source=source.name, kind="late")
