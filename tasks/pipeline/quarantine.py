"""Store the rejects of a page, so that people see them and a replay finds them. Their number is bounded."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import UUID

import structlog
from sqlalchemy import Connection, text

from sources.reject_codes import MAX_REJECTS_PER_PAGE, MAX_REJECTS_PER_RUN
from tasks.pipeline.normalize import NormalizedPage
from tasks.runs.leases import Lease
from tasks.runtime.safe_text import safe_text

log = structlog.get_logger()

MAX_QUOTED_CHARS = 200
"""The maximum characters of a rejected item in the log."""


def save_rejects(connection: Connection, lease: Lease, digest: bytes, normalized: NormalizedPage) -> None:
    """Quarantine the first items of a body that the current mapping rejects. Release items that it no longer rejects.

    Items after `last_known_index` stay unchanged. If not all rejects are stored, log how many.
    """
    if len(normalized.rejects) > 1:
        normalized = replace(normalized, rejects=normalized.rejects[: _free_places(connection, lease.claim.run)])
    if normalized.rejected > len(normalized.rejects):
        _log_unkept_rejects(lease, normalized)
    rejects = normalized.rejects
    connection.execute(
        text("""
            UPDATE rejects SET state = 'replayed', replayed_at = service_time()
             WHERE source = :source AND digest = :digest AND state = 'quarantined'
               AND item_index <= :last_known AND item_index <> ALL(CAST(:indexes AS int[]))
        """),
        {
            "source": lease.claim.source,
            "digest": digest,
            "last_known": normalized.last_known_index,
            "indexes": [reject.index for reject in rejects],
        },
    )
    if not rejects:
        return
    connection.execute(
        text("""
            INSERT INTO rejects (source, digest, item_index, item, reasons, rejected_at)
            SELECT :source, :digest, item_index, item, CAST(reasons AS jsonb), service_time()
              FROM unnest(CAST(:indexes AS int[]), CAST(:items AS text[]), CAST(:reasons AS text[]))
                AS rejected(item_index, item, reasons)
            ON CONFLICT (source, digest, item_index) DO UPDATE
               SET item = excluded.item, reasons = excluded.reasons, state = 'quarantined', replayed_at = NULL
             WHERE (rejects.item, rejects.reasons, rejects.state)
                   IS DISTINCT FROM (excluded.item, excluded.reasons, 'quarantined')
        """),
        {
            "source": lease.claim.source,
            "digest": digest,
            "indexes": [reject.index for reject in rejects],
            "items": [reject.item for reject in rejects],
            "reasons": [json.dumps([_safe(reason) for reason in reject.reasons]) for reject in rejects],
        },
    )


def _free_places(connection: Connection, run: UUID) -> int:
    """Return how many rejects of the run's next page to store: at least one, so that a replay finds the page."""
    stored = connection.scalar(
        text("""
            SELECT coalesce(sum(least(rejected, :max_rejects_per_page)), 0) FROM pages WHERE run = :run AND rejected > 0
        """),
        {"run": run, "max_rejects_per_page": MAX_REJECTS_PER_PAGE},
    )
    return max(1, MAX_REJECTS_PER_RUN - int(stored or 0))


def _log_unkept_rejects(lease: Lease, normalized: NormalizedPage) -> None:
    first = normalized.rejects[0]
    log.warning(
        "rejects_dropped",
        partition=lease.partition,
        rejected=normalized.rejected,
        kept=len(normalized.rejects),
        first=safe_text(first.item[:MAX_QUOTED_CHARS]),
        reason=safe_text(str(first.reasons[0]["detail"])),
    )


def _safe(reason: dict[str, str]) -> dict[str, str]:
    """Return the reason with safe texts. A mapping's error can quote a secret, and a field can have any name."""
    return {name: safe_text(str(value)) for name, value in reason.items()}
