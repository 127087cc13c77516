"""Find each source's last successful, last failed and unfinished live run."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields
from sqlalchemy import Connection, text

from app.web.formats import Instant

MAX_DETAIL_CHARS = 500


class LastRunSchema(Schema):
    """A finished run, and why it failed or is partial."""

    run = fields.UUID()
    status = fields.String()
    finished_at = Instant(allow_none=True)
    code = fields.String(allow_none=True, metadata={"examples": ["upstream_unavailable"]})
    detail = fields.String(allow_none=True, metadata={"description": f"At most {MAX_DETAIL_CHARS} characters."})


class LiveRunSchema(Schema):
    """An unfinished run."""

    run = fields.UUID()
    status = fields.String()
    requested_at = Instant()


LAST_SUCCESS = fields.Nested(
    LastRunSchema,
    allow_none=True,
    metadata={"description": "The last live run that ended as `succeeded` or `partial`."},
)
LAST_FAILURE = fields.Nested(LastRunSchema, allow_none=True, metadata={"description": "The last failed live run."})
LIVE_RUN = fields.Nested(LiveRunSchema, allow_none=True, metadata={"description": "The unfinished live run."})


def run_histories(connection: Connection, sources: list[str]) -> dict[str, dict[str, Any]]:
    """Return last_success, last_failure and live_run by source; each is None if there is no such run."""
    # The lateral join finds each run in the index on (source, requested_at).
    rows = connection.execute(
        text("""
            SELECT listed.name, part.member, run.*
              FROM unnest(CAST(:sources AS text[])) AS listed(name)
             CROSS JOIN (VALUES ('last_success', ARRAY['succeeded', 'partial']),
                                ('last_failure', ARRAY['failed']),
                                ('live_run', ARRAY['queued', 'running', 'waiting'])) AS part(member, statuses)
             CROSS JOIN LATERAL (SELECT id AS run, status, requested_at, finished_at, error_code AS code,
                                        left(error_detail, :max_chars) AS detail
                                   FROM runs
                                  WHERE source = listed.name AND kind = 'live' AND status = ANY(part.statuses)
                                  ORDER BY requested_at DESC LIMIT 1) AS run
        """),
        {"sources": sources, "max_chars": MAX_DETAIL_CHARS},
    )
    histories: dict[str, dict[str, Any]] = {
        name: dict.fromkeys(("last_success", "last_failure", "live_run")) for name in sources
    }
    for row in rows:
        histories[row.name][row.member] = dict(row._mapping)
    return histories
