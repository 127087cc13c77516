"""Load one page in one transaction: fence, raw body, quotes, rejects, page, checkpoint.

New quotes are copied directly into their table. Changed quotes are copied into a temporary table, from which the stored
quotes are corrected. Unchanged quotes are neither sent nor written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import psycopg2.extensions
from sqlalchemy import Connection, text

from sources.contract import Page
from sources.record import VALUE_FIELDS
from tasks.archive.raw_bodies import save_body, start_saving
from tasks.drift.stored_profiles import save_drift
from tasks.pipeline.changed_rows import SPANS, find_changes
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.fence import Fence
from tasks.pipeline.normalize import NormalizedPage
from tasks.pipeline.quarantine import save_rejects
from tasks.pipeline.revalidation import save_validator
from tasks.runs.leases import Lease
from tasks.runtime.fault_points import reach

MAX_LISTINGS_PER_PAGE = 50
"""A page's row stores the page's listings if there are at most this many. The API uses them to find a run's quotes
(app/quotes/run_bounds.py)."""

COPY_CHUNK_BYTES = 256 * 1024
"""Number of bytes to send at a time in a COPY."""

_CREATE_STAGED = f"""
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_quotes ON COMMIT DELETE ROWS AS
    SELECT listing_id, observed_at, {", ".join(VALUE_FIELDS)} FROM quotes WITH NO DATA
"""

# Rows are written in the order of their key, so that two writers of the same keys cannot deadlock.
_LOAD_STAGED = f"""
    WITH differing AS MATERIALIZED (
        SELECT s.*, stored.listing_id IS NULL AS is_new
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
           (SELECT count(*) FROM differing WHERE NOT is_new) - (SELECT count(*) FROM corrected) AS superseded
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


@dataclass(frozen=True)
class Counters:
    """Counts of a page's items. A constraint of `pages` requires `fetched` to be the sum of the next six.

    superseded: quotes that differ from the stored quotes without replacing them. The stored quotes were fetched later,
                or the page may only add quotes.
    """

    fetched: int
    inserted: int
    updated: int
    unchanged: int
    superseded: int
    deduplicated: int
    rejected: int
    blank: int
    bytes: int


class _Loaded(NamedTuple):
    """Numbers of a page's quotes by outcome."""

    inserted: int = 0
    updated: int = 0
    superseded: int = 0


def load_page(
    connection: Connection, lease: Lease, page: Page, normalized: NormalizedPage, rows: CopyRows, fence: Fence
) -> tuple[int, Counters]:
    """Write a page in the transaction that passed its fence. Return the page's number and counters.

    rows: the rows of the page's quotes. Quotes without a row count as unchanged. Raise the errors of `page.confirm`.
    """
    pending_body = start_saving(connection, lease.claim.source, page)
    loaded = _load_quotes(connection, rows, fence, corrects=page.corrects) if len(rows) else _Loaded()
    reach("after_merge")
    counters = Counters(
        **loaded._asdict(),
        fetched=normalized.fetched,
        unchanged=len(normalized.quotes) - sum(loaded),
        deduplicated=normalized.deduplicated,
        rejected=normalized.rejected,
        blank=normalized.blank,
        bytes=0 if page.status == 304 else len(page.body),
    )
    if pending_body:
        save_body(connection, lease.claim.source, page, pending_body)
    if not page.unchanged:
        save_rejects(connection, lease, page.digest, normalized)
    if normalized.drift.findings:
        save_drift(connection, lease.claim, normalized.drift.findings)
    save_validator(connection, lease, page, normalized, overwrites=loaded.updated > 0)
    seq = _insert_page(connection, lease, page, counters, rows, fence)
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
        staged = _Loaded(*connection.exec_driver_sql(_LOAD_STAGED, values).one())
        loaded = staged._replace(inserted=len(new) + staged.inserted)
    connection.execute(text(_MOVE_LATEST), rows.spans)
    return loaded


def _copy(connection: Connection, table: str, columns: Iterable[str], lines: bytes) -> None:
    driver = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
    with driver.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN", io.BytesIO(lines), COPY_CHUNK_BYTES)


def _insert_page(
    connection: Connection, lease: Lease, page: Page, counters: Counters, rows: CopyRows, fence: Fence
) -> int:
    times, listings = rows.frame["observed_at"], rows.spans["listings"]
    seq: int = connection.execute(
        text("""
            INSERT INTO pages (run, partition, seq, source, request, status, fetched_at, committed_at, body_digest,
                               cursor, fetched, inserted, updated, unchanged, superseded, deduplicated, rejected,
                               blank, bytes, observed_from, observed_until, listings, filled)
            SELECT :run, :partition, coalesce(max(seq) + 1, 0), :source, CAST(:request AS jsonb), :status,
                   :fetched_at, greatest(service_time(), CAST(:fence AS timestamptz)), :digest,
                   CAST(:cursor AS jsonb), :fetched, :inserted, :updated, :unchanged, :superseded, :deduplicated,
                   :rejected, :blank, :bytes, :observed_from, :observed_until, CAST(:listings AS int[]),
                   CAST(:filled AS jsonb)
              FROM pages WHERE run = :run AND partition = :partition
            RETURNING seq
        """),
        {
            **lease.key,
            **vars(counters),
            "request": _json(page.request),
            "status": page.status,
            "fetched_at": page.fetched_at,
            # The database's clock may have gone back since the fence.
            "fence": fence.time,
            "digest": page.digest,
            "cursor": _json(page.cursor),
            "observed_from": times.min(),
            "observed_until": times.max(),
            "filled": _json(rows.filled) if len(rows) else None,
            "listings": listings if 0 < len(listings) <= MAX_LISTINGS_PER_PAGE else None,
        },
    ).scalar_one()
    return seq


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
