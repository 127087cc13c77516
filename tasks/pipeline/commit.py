"""Commit a page in one transaction. If the response to a COMMIT is lost, find out whether the page is committed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy import Engine, text

from sources.contract import Page
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.fence import AlreadyCommitted, pass_fence
from tasks.pipeline.load import load_page
from tasks.pipeline.normalize import NormalizedPage
from tasks.pipeline.page_row import Counters
from tasks.runs.leases import Lease, next_version
from tasks.runtime.retry import retry_transaction
from tasks.runtime.service_clock import with_steady_clock

log = structlog.get_logger()


def commit_page(
    engine: Engine,
    lease: Lease,
    page: Page,
    normalized: NormalizedPage,
    rows: CopyRows,
    deadline: float,
) -> tuple[int, Counters]:
    """Load a page in one transaction. Return the page's number and counters.

    The whole transaction is retried after a transient error, and after the database's clock was set.
    deadline: the time after which no retry starts (monotonic seconds). Raise the errors of pass_fence and load_page.

    If the connection breaks during COMMIT, the checkpoint's version shows whether the page was committed. No other page
    has the version that is chosen here. Until Postgres ends the failed attempt, that attempt locks the checkpoint's
    row. The fence of the next attempt waits for this lock.
    """
    version = next_version(lease.version)

    def load() -> tuple[int, Counters]:
        with engine.begin() as connection:
            fence = pass_fence(connection, lease, page, version)
            fetched, dated_rows = _fetched_before(fence.time, page, rows)
            return load_page(connection, lease, fetched, normalized, dated_rows, fence)

    try:
        committed = retry_transaction(lambda: with_steady_clock(engine, load), deadline)
    except AlreadyCommitted:
        log.info("commit_response_lost", partition=lease.partition, version=version)
        committed = _last_committed(engine, lease)
    lease.version = version
    return committed


def _fetched_before(now: datetime, page: Page, rows: CopyRows) -> tuple[Page, CopyRows]:
    """Return a page and its rows with a fetch time of at most `now`. A later time would prevent later corrections."""
    if page.fetched_at <= now:
        return page, rows
    return replace(page, fetched_at=now), replace(rows, fetched_at=now)


def _last_committed(engine: Engine, lease: Lease) -> tuple[int, Counters]:
    """Return the number and the counters of the run's newest page in this partition."""
    names = Counters.__dataclass_fields__
    with engine.connect() as connection:
        row = connection.execute(
            text(f"""
                SELECT seq, {", ".join(names)} FROM pages
                 WHERE run = :run AND partition = :partition ORDER BY seq DESC LIMIT 1
            """),
            lease.key,
        ).one()
    return row.seq, Counters(*row[1:])
