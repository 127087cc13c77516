"""What each source's live runs came to: the last good one, the last bad one, the one under way."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields
from sqlalchemy import Connection, text

from app.web.formats import Instant

LONGEST_DETAIL = 500


class LastRunSchema(Schema):
    run = fields.UUID()
    status = fields.String()
    finished_at = Instant(allow_none=True)


class LastFailureSchema(LastRunSchema):
    code = fields.String(allow_none=True, metadata={"examples": ["upstream_unavailable"]})
    detail = fields.String(allow_none=True, metadata={"description": f"At most {LONGEST_DETAIL} characters."})


class LiveRunSchema(Schema):
    run = fields.UUID()
    status = fields.String()
    requested_at = Instant()


LAST_SUCCESS = fields.Nested(LastRunSchema, allow_none=True, metadata={"description": "Succeeded, or partial."})
LAST_FAILURE = fields.Nested(LastFailureSchema, allow_none=True)
LIVE_RUN = fields.Nested(LiveRunSchema, allow_none=True, metadata={"description": "The unfinished run."})


def run_histories(connection: Connection, sources: list[str]) -> dict[str, dict[str, Any]]:
    """By source its last success, last failure and live run; each found through the index on (source, requested_at)."""
    rows = connection.execute(
        text("""
            SELECT wanted.name, part.what, run.*
              FROM unnest(CAST(:sources AS text[])) AS wanted(name)
             CROSS JOIN (VALUES ('last_success', ARRAY['succeeded', 'partial']),
                                ('last_failure', ARRAY['failed']),
                                ('live_run', ARRAY['queued', 'running', 'waiting'])) AS part(what, statuses)
             CROSS JOIN LATERAL (SELECT id AS run, status, requested_at, finished_at, error_code AS code,
                                        left(error_detail, :longest) AS detail
                                   FROM runs
                                  WHERE source = wanted.name AND kind = 'live' AND status = ANY(part.statuses)
                                  ORDER BY requested_at DESC LIMIT 1) AS run
        """),
        {"sources": sources, "longest": LONGEST_DETAIL},
    )
    found: dict[str, dict[str, Any]] = {
        name: dict.fromkeys(("last_success", "last_failure", "live_run")) for name in sources
    }
    for row in rows:
        found[row.name][row.what] = dict(row._mapping)
    return found
