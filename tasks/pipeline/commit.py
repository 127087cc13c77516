"""Transactions tried again, whole, where Postgres lets it be thought that they pass the next time."""

from __future__ import annotations

import structlog
from sqlalchemy import Engine, text

from sources.contract import Page
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.load import Counters, load_page, pass_fence
from tasks.pipeline.normalize import NormalizedPage
from tasks.runs.leases import Lease, LeaseLost
from tasks.runtime.retry import retry_transaction

log = structlog.get_logger()


class _IsIn(Exception):
    """An earlier try was committed; only the answer to its COMMIT got lost."""


def commit_page(
    engine: Engine,
    lease: Lease,
    page: Page,
    normalized: NormalizedPage,
    rows: CopyRows,
    until: float,
) -> tuple[int, Counters]:
    """Load a page in one transaction, tried again whole; raises what pass_fence and load_page do.

    What tells whether a try was committed whose connection broke is the checkpoint's version: each page makes it one
    higher, and under one token none but this slice does. Until Postgres has settled what became of that try, it holds
    the checkpoint's row, and the next try's fence waits for it.
    """
    following, tries = lease.version + 1, 0

    def load() -> tuple[int, Counters]:
        nonlocal tries
        tries += 1
        with engine.begin() as connection:
            version = pass_fence(connection, lease, page)
            if tries > 1 and version == following + 1:
                raise _IsIn
            if version != following:  # Postgres was set back to an older state, by a failover or from a backup
                raise LeaseLost(f"the checkpoint of partition {lease.partition!r} is not where this slice left it")
            return load_page(connection, lease, page, normalized, rows)

    try:
        committed = retry_transaction(load, until)
    except _IsIn:
        log.info("commit_response_lost", partition=lease.partition, version=following)
        committed = _as_committed(engine, lease)
    lease.version = following
    return committed


def _as_committed(engine: Engine, lease: Lease) -> tuple[int, Counters]:
    """The number and the counters of the newest page of a run's partition."""
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
