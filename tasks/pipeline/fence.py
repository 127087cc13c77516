"""Fence a page's transaction: only the slice that holds the partition's lease may write, and only once."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, text

from sources.contract import Page
from tasks.runs.claims import IS_HELD, ClaimLost
from tasks.runs.leases import Cancelled, Lease, LeaseLost
from tasks.runtime.service_clock import Reading, monotonic_seconds, observe


class Fence(NamedTuple):
    """The times that a page's transaction read at its fence.

    time:        the service's time.
    ingested_at: the time of ingestion of the page's quotes. None for the default, the start of the transaction.
    """

    time: datetime
    ingested_at: datetime | None


class AlreadyCommitted(Exception):
    """An earlier attempt committed the page, but the response to its COMMIT was lost."""


class CommitLost(LeaseLost):
    """The checkpoint has an older version than this slice read or committed: the database was set back."""


def pass_fence(connection: Connection, lease: Lease, page: Page, next_version: int) -> Fence:
    """Advance the checkpoint past the page, if this slice still holds its lease and knows the checkpoint's version.

    next_version: the checkpoint's version after this page. No other page has it.

    Raise LeaseLost, CommitLost, AlreadyCommitted, ClaimLost or Cancelled. Raise ClockStepped if the database's clock
    was set.
    """
    asked_at = monotonic_seconds()
    passed = connection.execute(
        text("""
            UPDATE checkpoints
               SET cursor = CAST(:cursor AS jsonb), version = :next_version, updated_at = service_time(),
                   lease_expires = service_time() + :lease
             WHERE source = :source AND partition = :partition AND lease_run = :run AND lease_token = :token
               AND version = :version
            RETURNING updated_at, clock_timestamp() AS wall, clock_ahead(now()) > 0 AS is_ahead
        """),
        {
            **lease.key,
            "version": lease.version,
            "next_version": next_version,
            "cursor": None if page.cursor is None else json.dumps(page.cursor),
            "lease": timedelta(seconds=lease.seconds),
        },
    ).one_or_none()
    if passed is None:
        raise _reason_not_advanced(connection, lease, next_version)
    observe(connection.engine, Reading(passed.updated_at, passed.wall), asked_at)
    fence = Fence(passed.updated_at, passed.updated_at if passed.is_ahead else None)
    # Lock the run until the commit, so that no other process ends or requeues it before. Assistants take no lock: many
    # shared locks could delay the end of the run forever. Ending or requeueing the run also ends the assistants'
    # leases, and so waits for their pages.
    lock = "" if lease.claim.assists else "FOR SHARE"
    run = connection.execute(
        text(f"""
            SELECT cancel_requested, attempts, waits FROM runs WHERE {IS_HELD} {lock}
        """),
        lease.claim.key,
    ).one_or_none()
    if run is None:
        raise ClaimLost(str(lease.claim.run))
    if run.cancel_requested:
        raise Cancelled
    if lease.claim.assists:
        return fence
    # A page that leaves the cursor where the slice started is no progress. The next slice would load the page again.
    if (run.attempts or run.waits) and lease.cursor != json.loads(json.dumps(page.cursor)):
        connection.execute(text("UPDATE runs SET attempts = 0, waits = 0 WHERE id = :run"), {"run": lease.claim.run})
    return fence


def _reason_not_advanced(connection: Connection, lease: Lease, next_version: int) -> Exception:
    version = connection.scalar(
        text("""
            SELECT version FROM checkpoints
             WHERE source = :source AND partition = :partition AND lease_run = :run AND lease_token = :token
        """),
        lease.key,
    )
    if version is None:
        return LeaseLost(f"the lease of partition {lease.partition!r} was taken over")
    if version == next_version:
        return AlreadyCommitted()
    error = CommitLost if version < lease.version else LeaseLost
    return error(f"the checkpoint of partition {lease.partition!r} changed since the last commit")
