"""Load one page in one transaction: fence, raw body, quotes, rejects, page, checkpoint.

New quotes are copied directly into their table. Changed quotes are copied into a temporary table, from which the stored
quotes are corrected. Unchanged quotes are neither sent nor written.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, cast

import psycopg2.extensions
import structlog
from sqlalchemy import Connection, Row, text

from sources.contract import Page
from sources.record import VALUE_FIELDS
from tasks.archive.raw_bodies import save_body, start_saving
from tasks.archive.seen_quotes import record_seen
from tasks.drift.stored_profiles import save_drift
from tasks.pipeline.changed_rows import SPANS, find_changes
from tasks.pipeline.conflicts import Conflict, Conflicts
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.dropped import DroppedValues
from tasks.pipeline.fence import Fence
from tasks.pipeline.normalize import NormalizedPage
from tasks.pipeline.page_row import Counters, insert_page
from tasks.pipeline.quarantine import MAX_QUOTED_CHARS, save_rejects
from tasks.pipeline.revalidation import save_validator
from tasks.runs.leases import Lease
from tasks.runtime.fault_points import reach
from tasks.runtime.safe_text import safe_text

log = structlog.get_logger()

COPY_CHUNK_BYTES = 256 * 1024
"""Number of bytes to send at a time in a COPY."""

_CREATE_STAGED = f"""
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_quotes ON COMMIT DELETE ROWS AS
    SELECT listing_id, observed_at, {", ".join(VALUE_FIELDS)} FROM quotes WITH NO DATA
"""

# Rows are written in the order of their key, so that two writers of the same keys cannot deadlock.
_LOAD_STAGED = f"""
    WITH differing AS MATERIALIZED (
        SELECT s.*, stored.listing_id IS NULL AS is_new,
               CASE WHEN stored.run = %(run)s THEN ARRAY[{", ".join(f"stored.{name}::text" for name in VALUE_FIELDS)}]
               END AS own_values
          FROM staged_quotes AS s LEFT JOIN ({SPANS}) AS stored USING (listing_id, observed_at)
         WHERE stored.listing_id IS NULL
            OR ({", ".join(f"stored.{name}" for name in VALUE_FIELDS)})
               IS DISTINCT FROM ({", ".join(f"s.{name}" for name in VALUE_FIELDS)})
         ORDER BY listing_id, observed_at),
    added AS (
        INSERT INTO quotes (listing_id, observed_at, {", ".join(VALUE_FIELDS)}, fetched_at, ingested_at, run)
        SELECT listing_id, observed_at, {", ".join(VALUE_FIELDS)}, %(fetched_at)s, coalesce(%(ingested_at)s, now()),
               %(run)s FROM differing WHERE is_new
        RETURNING 1),
    corrected AS (
        UPDATE quotes AS q
           SET {", ".join(f"{name} = d.{name}" for name in VALUE_FIELDS)},
               fetched_at = %(fetched_at)s, ingested_at = coalesce(%(ingested_at)s, now()), run = %(run)s
          FROM differing AS d
         WHERE NOT d.is_new AND q.listing_id = d.listing_id AND q.observed_at = d.observed_at
           AND q.fetched_at <= %(fetched_at)s AND %(corrects)s
        RETURNING 1)
    SELECT (SELECT count(*) FROM added) AS inserted, (SELECT count(*) FROM corrected) AS updated,
           (SELECT count(*) FROM differing WHERE NOT is_new) - (SELECT count(*) FROM corrected) AS superseded,
           (SELECT count(own_values) FROM differing) AS conflicting,
           (SELECT jsonb_build_object('listing', listing_id, 'observed_at', observed_at, 'stored', own_values,
                                      'new', ARRAY[{", ".join(f"{name}::text" for name in VALUE_FIELDS)}])
              FROM differing WHERE own_values IS NOT NULL LIMIT 1) AS conflict
"""

_MOVE_LATEST = """
    INSERT INTO latest_quotes (listing_id, observed_at)
    SELECT span.listing_id, span.until
      FROM unnest(CAST(:listings AS int[]), CAST(:until AS timestamptz[])) AS span(listing_id, until)
     WHERE NOT EXISTS (SELECT FROM latest_quotes AS l
                        WHERE l.listing_id = span.listing_id AND l.observed_at >= span.until)
     ORDER BY span.listing_id
    ON CONFLICT (listing_id) DO UPDATE SET observed_at = excluded.observed_at
     WHERE latest_quotes.observed_at < excluded.observed_at
"""


class _Loaded(NamedTuple):
    """Numbers of a page's quotes by outcome, and its conflicts with earlier pages of the run."""

    inserted: int = 0
    updated: int = 0
    superseded: int = 0
    conflicts: Conflicts = Conflicts()

    @property
    def changes(self) -> int:
        """Return the number of quotes that are not unchanged."""
        return self.inserted + self.updated + self.superseded


def load_page(
    connection: Connection, lease: Lease, page: Page, normalized: NormalizedPage, rows: CopyRows, fence: Fence
) -> tuple[int, Counters]:
    """Write a page in the transaction that passed its fence. Return the page's number and counters.

    rows: the rows of the page's quotes. Quotes without a row count as unchanged. Raise the errors of `page.confirm`.
    """
    pending_body = start_saving(connection, lease.claim.source, page)
    loaded = _load_quotes(connection, rows, fence, corrects=page.corrects) if len(rows) else _Loaded()
    if rows.seen is not None:
        seen = replace(rows, frame=rows.seen)
        record_seen(connection, lease.claim, seen.bare_text if len(seen) else b"", normalized.reject_keys)
    reach("after_merge")
    conflicts = normalized.quotes.conflicts + loaded.conflicts
    counters = Counters(
        fetched=normalized.fetched,
        inserted=loaded.inserted,
        updated=loaded.updated,
        unchanged=len(normalized.quotes) - loaded.changes,
        superseded=loaded.superseded,
        deduplicated=normalized.deduplicated,
        rejected=normalized.rejected,
        left_out=normalized.left_out,
        blank=normalized.blank,
        conflicting=conflicts.count,
        bytes=0 if page.status == 304 else len(page.body),
    )
    if pending_body:
        save_body(connection, lease.claim.source, page, pending_body)
    if conflicts.first:
        first = conflicts.first.as_json()
        log.warning("items_conflicting", partition=lease.partition, conflicting=conflicts.count, first=first)
    if normalized.dropped:
        _log_dropped_values(lease, normalized.dropped)
    if not page.unchanged:
        save_rejects(connection, lease, page.digest, normalized)
    if normalized.drift.findings:
        save_drift(connection, lease.claim, normalized.drift.findings)
    save_validator(connection, lease, page, normalized, overwrites=loaded.updated > 0)
    unidentified = None if rows.seen is None else normalized.unidentified + (page.waiting is not None)
    seq = insert_page(connection, lease, page, counters, conflicts, normalized.dropped, rows, fence, unidentified)
    reach("after_raw_page")
    if page.confirm:
        page.confirm()
    reach("before_commit")
    return seq, counters


def _load_quotes(connection: Connection, rows: CopyRows, fence: Fence, *, corrects: bool) -> _Loaded:
    """Write the new and the changed quotes."""
    new, changed = find_changes(connection, rows)
    loaded = _Loaded(inserted=len(new))
    if len(new):
        new = replace(new, ingested_at=fence.ingested_at) if fence.ingested_at else new
        _copy(connection, "quotes", [*new.frame.columns, *new.shared], new.text)
    if len(changed):
        connection.exec_driver_sql(_CREATE_STAGED)
        _copy(connection, "staged_quotes", changed.frame.columns, changed.bare_text)
    reach("after_copy")
    if len(changed):
        # Sort and hash the page in memory, not on disk.
        connection.execute(text("SET LOCAL work_mem = '64MB'"))
        times = {"fetched_at": rows.fetched_at, "ingested_at": fence.ingested_at}
        values = {**changed.spans, **times, "run": rows.run, "corrects": corrects}
        staged = connection.exec_driver_sql(_LOAD_STAGED, values).one()
        loaded = _Loaded(
            len(new) + staged.inserted, staged.updated, staged.superseded, _conflicts_with_stored(staged, rows)
        )
    connection.execute(text(_MOVE_LATEST), rows.spans)
    return loaded


def _conflicts_with_stored(staged: Row[Any], rows: CopyRows) -> Conflicts:
    """Return the conflicts with rows that earlier pages of the same run stored."""
    if not staged.conflicting:
        return Conflicts()
    assert rows.listings
    pairs = zip(VALUE_FIELDS, staged.conflict["stored"], staged.conflict["new"], strict=True)
    return Conflicts(
        staged.conflicting,
        Conflict(
            rows.listings.keys[staged.conflict["listing"]],
            datetime.fromisoformat(staged.conflict["observed_at"]),
            {name: (stored, new) for name, stored, new in pairs if stored != new},
        ),
    )


def _copy(connection: Connection, table: str, columns: Iterable[str], lines: bytes) -> None:
    driver = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
    with driver.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN", io.BytesIO(lines), COPY_CHUNK_BYTES)


def _log_dropped_values(lease: Lease, dropped: DroppedValues) -> None:
    first = next(iter(dropped))
    log.warning(
        "values_dropped",
        partition=lease.partition,
        dropped=len(dropped),
        fields=sorted({kind.field for kind in dropped}),
        first=safe_text(first.item)[:MAX_QUOTED_CHARS],
        reason=f"{first.field}: {safe_text(first.detail)}",
    )
