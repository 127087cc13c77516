"""Repair what depends on commits that the database lost, and name the sources whose data may be missing."""

from __future__ import annotations

import structlog
from sqlalchemy import Connection, text

from sources.registry import BROKEN, SOURCES
from store.locks import NamedLock, take_named_lock

log = structlog.get_logger()

_BEGIN_SET_BACK = text("""
    INSERT INTO anomalies (source, kind, detail, found_at)
    SELECT name, 'set_back', :detail, service_time() FROM sources WHERE name = ANY(:registered)
     ORDER BY name RETURNING source
""")

_END_SET_BACK = text("""
    UPDATE anomalies AS a SET over_at = service_time()
     WHERE kind = 'set_back' AND over_at IS NULL
       AND EXISTS (SELECT FROM runs WHERE runs.source = a.source AND runs.kind = 'live'
                      AND status IN ('succeeded', 'partial') AND started_at > a.found_at)
    RETURNING source
""")


def begin_repair(connection: Connection, reason: str) -> list[str]:
    """Begin an anomaly for each source, and let its next run request every body again. Return the sources.

    A validator can belong to a page whose names or decisions are lost, although the page itself is not.
    """
    detail = f"{reason}; commits may be missing until the source's next run"
    values = {"detail": detail, "registered": [*SOURCES, *BROKEN]}
    sources = list(connection.scalars(_BEGIN_SET_BACK, values))
    for source in sorted(sources):
        # Take the lock of tasks/pipeline/revalidation.py. Without it, this transaction could deadlock with a page's.
        take_named_lock(connection, NamedLock.VALIDATORS, source)
        connection.execute(text("DELETE FROM validators WHERE source = :source"), {"source": source})
    return sources


def end_repairs(connection: Connection) -> None:
    """End the anomaly of each source that has completed a run since the set-back was detected."""
    for source in connection.scalars(_END_SET_BACK):
        log.info("anomaly_ended", source=source, kind="set_back")
