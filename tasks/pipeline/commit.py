"""Commit a page in one transaction. If the response to a COMMIT is lost, find out whether the page is committed."""

from __future__ import annotations

import structlog
from sqlalchemy import Engine, text

from sources.contract import Page
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.load import AlreadyCommitted, Counters, load_page, pass_fence
from tasks.pipeline.normalize import NormalizedPage
from tasks.runs.leases import Lease, next_version
from tasks.runtime.retry import retry_transaction

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

    The whole transaction is retried after a transient error.
    deadline: the time after which no retry starts (monotonic seconds). Raise the errors of pass_fence and load_page.

    If the connection breaks during COMMIT, the checkpoint's version shows whether the page was committed, since no
    other page has the version that is chosen here. Until Postgres ends the failed attempt, that attempt locks the
    checkpoint's row. The fence of the next attempt waits for this lock.
    """
    version = next_version(lease.version)

    def load() -> tuple[int, Counters]:
        with engine.begin() as connection:
            pass_fence(connection, lease, page, version)
            return load_page(connection, lease, page, normalized, rows)

    try:
        committed = retry_transaction(load, deadline)
    except AlreadyCommitted:
        log.info("commit_response_lost", partition=lease.partition, version=version)
        committed = _last_committed(engine, lease)
    lease.version = version
    return committed


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
