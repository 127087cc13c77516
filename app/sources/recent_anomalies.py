"""Find the anomalies of each source's newest content. Runs that found nothing new are skipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

CONTENT_KINDS = ("rows", "rejects", "repeats", "nulls", "lag", "schema")
"""The kinds of anomalies that concern the content of a run. Others concern single listings, or only the duration."""

MAX_RUNS = 100
"""The number of a source's last runs in which newer content is searched."""


def recent_anomalies(connection: Connection, sources: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Return the details of the anomalies of the newest live run that had items, by source."""
    rows = connection.execute(
        text("""
            SELECT listed.name, anomaly.detail
              FROM unnest(CAST(:sources AS text[])) AS listed(name)
             CROSS JOIN LATERAL (
                   SELECT id FROM (SELECT id, requested_at FROM runs
                                    WHERE source = listed.name AND kind = 'live' AND finished_at IS NOT NULL
                                    ORDER BY requested_at DESC LIMIT :max_runs) AS recent
                    WHERE EXISTS (SELECT FROM pages WHERE pages.run = recent.id AND fetched > 0)
                    ORDER BY requested_at DESC LIMIT 1) AS newest
              JOIN anomalies AS anomaly ON anomaly.run = newest.id AND anomaly.kind = ANY(:kinds)
             ORDER BY anomaly.id
        """),
        {"sources": list(sources), "kinds": list(CONTENT_KINDS), "max_runs": MAX_RUNS},
    )
    details = defaultdict(list)
    for row in rows:
        details[row.name].append(row.detail)
    return details
