"""One page in one transaction: fence, raw body, quotes, rejects, page, checkpoint. All of it, or none.

The quotes go by COPY into a temporary table and from there by MERGE, which writes nothing for a quote that is the same.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import psycopg2.extensions
from sqlalchemy import Connection, text

from sources.contract import Page
from sources.record import Quote
from tasks.bodies import keep_body
from tasks.claims import ClaimLost
from tasks.faults import reach
from tasks.leases import Cancelled, Lease, LeaseLost
from tasks.normalize import Normalized, RejectedItem
from tasks.validators import keep_validator

VALUES = (
    "price",
    "open",
    "high",
    "low",
    "volume_24h",
    "market_cap",
    "change_24h_pct",
    "rank",
    "circulating_supply",
    "total_supply",
    "max_supply",
)

_CREATE_STAGED = f"""
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_quotes ON COMMIT DELETE ROWS AS
    SELECT listing_id, observed_at, {", ".join(VALUES)} FROM quotes WITH NO DATA
"""

_COPY_STAGED = f"COPY staged_quotes (listing_id, observed_at, {', '.join(VALUES)}) FROM STDIN"

# Sorted, so that two writers of the same keys wait for each other instead of in a circle.
_MERGE_QUOTES = f"""
    WITH merged AS (
        MERGE INTO quotes AS q
        USING (SELECT * FROM staged_quotes ORDER BY listing_id, observed_at) AS s
           ON q.listing_id = s.listing_id AND q.observed_at = s.observed_at
         WHEN MATCHED AND q.fetched_at <= :fetched_at
              AND ({", ".join(f"q.{name}" for name in VALUES)})
                  IS DISTINCT FROM ({", ".join(f"s.{name}" for name in VALUES)})
         THEN UPDATE SET {", ".join(f"{name} = s.{name}" for name in VALUES)},
                         fetched_at = :fetched_at, ingested_at = now(), run = :run
         WHEN NOT MATCHED
         THEN INSERT (listing_id, observed_at, {", ".join(VALUES)}, fetched_at, ingested_at, run)
              VALUES (s.listing_id, s.observed_at, {", ".join(f"s.{name}" for name in VALUES)},
                      :fetched_at, now(), :run)
        RETURNING merge_action() AS action
    )
    SELECT count(*) FILTER (WHERE action = 'INSERT') AS inserted, count(*) FILTER (WHERE action = 'UPDATE') AS updated
      FROM merged
"""

_MERGE_LATEST = """
    MERGE INTO latest_quotes AS l
    USING (SELECT listing_id, max(observed_at) AS observed_at FROM staged_quotes GROUP BY 1 ORDER BY 1) AS s
       ON l.listing_id = s.listing_id
     WHEN MATCHED AND l.observed_at < s.observed_at THEN UPDATE SET observed_at = s.observed_at
     WHEN NOT MATCHED THEN INSERT (listing_id, observed_at) VALUES (s.listing_id, s.observed_at)
"""


@dataclass(frozen=True)
class Counters:
    """What became of a page's items. The table itself holds fetched to the sum of the five that follow it."""

    fetched: int
    inserted: int
    updated: int
    unchanged: int
    deduplicated: int
    rejected: int
    blank: int
    bytes: int


def load_page(
    connection: Connection, lease: Lease, page: Page, normalized: Normalized, listings: Mapping[tuple[str, str], int]
) -> tuple[int, Counters]:
    """Write a page, within the transaction that passed its fence; gives its number in its run's partition.

    listings: the id of each (source_asset_id, quote_currency). Raises what `page.confirm` raises.
    """
    if normalized.quotes:
        _copy_quotes(connection, normalized.quotes.values(), listings)
    reach("after_copy")
    connection.execute(
        # One writer for each source at a time: it owns its listings' keys. Taken after the COPY, so that two overlap.
        text("SELECT pg_advisory_xact_lock(hashtextextended(:source, 0))"),
        {"source": lease.claim.source},
    )
    inserted, updated = _merge_quotes(connection, lease, page) if normalized.quotes else (0, 0)
    reach("after_merge")
    counters = Counters(
        fetched=normalized.fetched,
        inserted=inserted,
        updated=updated,
        unchanged=len(normalized.quotes) - inserted - updated,
        deduplicated=normalized.deduplicated,
        rejected=len(normalized.rejects),
        blank=normalized.blank,
        bytes=0 if page.status == 304 else len(page.body),
    )
    keep_body(connection, lease.claim.source, page)
    if not page.unchanged:
        _keep_rejects(connection, lease, page.digest, normalized.rejects)
    keep_validator(connection, lease, page, normalized, overwrites=updated > 0)
    seq = _keep_page(connection, lease, page, counters)
    reach("after_raw_page")
    if page.confirm:
        page.confirm()
    reach("before_commit")
    return seq, counters


def pass_fence(connection: Connection, lease: Lease, page: Page) -> int:
    """Move the checkpoint to behind the page, if that is still ours to do; gives the version that it has then.

    Raises LeaseLost, ClaimLost, Cancelled.
    """
    version: int | None = connection.scalar(
        text("""
            UPDATE checkpoints
               SET cursor = CAST(:cursor AS jsonb), version = version + 1, updated_at = clock_timestamp(),
                   lease_expires = clock_timestamp() + :lease
             WHERE source = :source AND partition = :partition AND lease_run = :run AND lease_token = :token
            RETURNING version
        """),
        {**lease.key, "cursor": _json(page.cursor), "lease": timedelta(seconds=lease.seconds)},
    )
    if version is None:
        raise LeaseLost(f"the lease of partition {lease.partition!r} was taken over")
    run = connection.execute(
        # Held until the commit: nobody ends the run, or puts it back, between this look and that.
        text("""
            SELECT cancel_requested, attempts, waits FROM runs
             WHERE id = :run AND claims = :number AND status = 'running' FOR SHARE
        """),
        {"run": lease.claim.run, "number": lease.claim.number},
    ).one_or_none()
    if run is None:
        raise ClaimLost(str(lease.claim.run))
    if run.cancel_requested:
        raise Cancelled
    # A page that leaves the checkpoint where this slice found it is no progress: the next slice would do it again.
    if (run.attempts or run.waits) and lease.cursor != json.loads(json.dumps(page.cursor)):
        connection.execute(text("UPDATE runs SET attempts = 0, waits = 0 WHERE id = :run"), {"run": lease.claim.run})
    return version


def _copy_quotes(connection: Connection, quotes: Iterable[Quote], listings: Mapping[tuple[str, str], int]) -> None:
    connection.exec_driver_sql(_CREATE_STAGED)
    rows = io.StringIO()
    for quote in quotes:
        values = [getattr(quote, name) for name in VALUES]
        listing = listings[quote.source_asset_id, quote.quote_currency]
        cells = (str(listing), quote.observed_at.isoformat(), *("\\N" if v is None else str(v) for v in values))
        rows.write("\t".join(cells) + "\n")
    rows.seek(0)
    driver = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
    with driver.cursor() as cursor:
        cursor.copy_expert(_COPY_STAGED, rows)


def _merge_quotes(connection: Connection, lease: Lease, page: Page) -> tuple[int, int]:
    merged = connection.execute(text(_MERGE_QUOTES), {"run": lease.claim.run, "fetched_at": page.fetched_at}).one()
    connection.execute(text(_MERGE_LATEST))
    return merged.inserted, merged.updated


def _keep_rejects(connection: Connection, lease: Lease, digest: bytes, rejects: list[RejectedItem]) -> None:
    """What today's mapping refuses of a body: where the body came before, its rejects of that day give way."""
    connection.execute(
        text("""
            DELETE FROM rejects WHERE source = :source AND digest = :digest AND state = 'quarantined'
               AND item_index <> ALL(CAST(:indexes AS int[]))
        """),
        {"source": lease.claim.source, "digest": digest, "indexes": [reject.index for reject in rejects]},
    )
    if not rejects:
        return
    connection.execute(
        text("""
            INSERT INTO rejects (source, digest, item_index, item, reasons, rejected_at)
            SELECT :source, :digest, item_index, item, CAST(reasons AS jsonb), now()
              FROM unnest(CAST(:indexes AS int[]), CAST(:items AS text[]), CAST(:reasons AS text[]))
                AS it(item_index, item, reasons)
            ON CONFLICT (source, digest, item_index) DO UPDATE SET item = excluded.item, reasons = excluded.reasons
             WHERE (rejects.item, rejects.reasons) IS DISTINCT FROM (excluded.item, excluded.reasons)
        """),
        {
            "source": lease.claim.source,
            "digest": digest,
            "indexes": [reject.index for reject in rejects],
            "items": [reject.item for reject in rejects],
            "reasons": [_json(reject.reasons) for reject in rejects],
        },
    )


def _keep_page(connection: Connection, lease: Lease, page: Page, counters: Counters) -> int:
    seq: int = connection.execute(
        text("""
            INSERT INTO pages (run, partition, seq, source, request, status, fetched_at, committed_at, body_digest,
                               cursor, fetched, inserted, updated, unchanged, deduplicated, rejected, blank, bytes)
            SELECT :run, :partition, coalesce(max(seq) + 1, 0), :source, CAST(:request AS jsonb), :status,
                   :fetched_at, clock_timestamp(), :digest, CAST(:cursor AS jsonb), :fetched, :inserted, :updated,
                   :unchanged, :deduplicated, :rejected, :blank, :bytes
              FROM pages WHERE run = :run AND partition = :partition
            RETURNING seq
        """),
        {
            **lease.key,
            **vars(counters),
            "request": _json(page.request),
            "status": page.status,
            "fetched_at": page.fetched_at,
            "digest": page.digest,
            "cursor": _json(page.cursor),
        },
    ).scalar_one()
    return seq


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
