"""Write the row of a page: its request, its cursor, and the number of its items by outcome."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from sources.contract import Page
from tasks.pipeline.conflicts import Conflicts
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.dropped import DroppedValues
from tasks.pipeline.fence import Fence
from tasks.runs.leases import Lease
from tasks.runtime.safe_text import safe_text

MAX_LISTINGS_PER_PAGE = 50
"""A page's row stores the page's listings if there are at most this many. The API uses them to find a run's quotes
(app/quotes/run_bounds.py)."""


@dataclass(frozen=True)
class Counters:
    """Counts of a page's items. A constraint of `pages` requires `fetched` to be the sum of the next seven.

    superseded: quotes that differ from the stored quotes without replacing them. The stored quotes were fetched later,
                or the page may only add quotes.
    left_out:   items that the source's `parse` leaves out.
    conflicting: items, counted above, whose values differ from another item of the run with the same listing and time.
    """

    fetched: int
    inserted: int
    updated: int
    unchanged: int
    superseded: int
    deduplicated: int
    rejected: int
    left_out: int
    blank: int
    conflicting: int
    bytes: int


def insert_page(
    connection: Connection,
    lease: Lease,
    page: Page,
    counters: Counters,
    conflicts: Conflicts,
    dropped: DroppedValues,
    rows: CopyRows,
    fence: Fence,
    unidentified: int | None,
) -> int:
    """Insert the row of a page in the transaction that loads it. Return the page's number."""
    times, listings = rows.frame["observed_at"], rows.spans["listings"]
    seq: int = connection.execute(
        text("""
            INSERT INTO pages (run, partition, seq, source, request, status, fetched_at, committed_at, body_digest,
                               cursor, fetched, inserted, updated, unchanged, superseded, deduplicated, rejected,
                               left_out, blank, conflicting, conflict, dropped, bytes, observed_from, observed_until,
                               listings, filled, unidentified)
            SELECT :run, :partition, coalesce(max(seq) + 1, 0), :source, CAST(:request AS jsonb), :status,
                   :fetched_at, greatest(service_time(), CAST(:fence AS timestamptz)), :digest,
                   CAST(:cursor AS jsonb), :fetched, :inserted, :updated, :unchanged, :superseded, :deduplicated,
                   :rejected, :left_out, :blank, :conflicting, CAST(:conflict AS jsonb),
                   CAST(:dropped AS jsonb), :bytes, :observed_from, :observed_until, CAST(:listings AS int[]),
                   CAST(:filled AS jsonb), CAST(:unidentified AS int)
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
            "conflict": _json(conflicts.first.as_json() if conflicts.first else None),
            "dropped": _json([kind.as_json(safe_text) for kind in dropped] or None),
            "observed_from": times.min(),
            "observed_until": times.max(),
            "filled": _json(rows.filled) if len(rows) else None,
            "unidentified": unidentified,
            "listings": listings if 0 < len(listings) <= MAX_LISTINGS_PER_PAGE else None,
        },
    ).scalar_one()
    return seq


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
