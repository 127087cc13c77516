"""Work on a run of two pages over an unreliable connection, and verify its outcome."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import DBAPIError

from sources.contract import Source
from tasks.ingest import work_on
from tasks.runs.claims import ClaimLost, claim_run
from tasks.runs.leases import LeaseLost
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

PAGES = [item(0), item(1)], [item(2), item(1, price="7"), item(3, price=None)]

OUTCOME = """
    SELECT sum(fetched) AS fetched, sum(inserted) AS inserted, sum(updated) AS updated, sum(rejected) AS rejected,
           count(*) AS pages, (SELECT cursor->'next' FROM checkpoints WHERE source = :source) AS next,
           (SELECT count(*) FROM checkpoints WHERE source = :source AND lease_run IS NOT NULL) AS leases
      FROM pages WHERE run = :run
"""
EXPECTED = {"fetched": 5, "inserted": 3, "updated": 1, "rejected": 1, "pages": 2, "next": 2, "leases": 0}


def two_pages(fetched: list[int] | None = None) -> Source:
    """Return a source of two pages. fetched: a list that collects the number of each fetched page."""
    return canned(*PAGES, name="two", before=(fetched if fetched is not None else []).append)


def run_slice(bench: Bench, run: uuid.UUID, **settings: Any) -> None:
    """Work on a run for one slice. Like a worker, ignore lost claims, lost leases and database errors."""
    try:
        claim = claim_run(bench.engine, run)
        if claim is not None:
            work_on(bench.engine, replace(bench.settings, **settings), claim)
    except (ClaimLost, LeaseLost, DBAPIError):
        pass


def finish(bench: Bench, run: uuid.UUID) -> None:
    """Expire leases and waits, and run further slices, until the run has ended."""
    for _ in range(3):
        if bench.run(run)["status"] not in ("queued", "running", "waiting"):
            return
        bench.let_leases_run_out()
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        run_slice(bench, run)


def assert_loaded_once(bench: Bench, run: uuid.UUID) -> None:
    """Assert that the run succeeded, loaded each page exactly once, and holds no lease."""
    row = bench.run(run)
    assert row["status"] == "succeeded", row
    assert dict(bench.rows(OUTCOME, run=run, source=row["source"])[0]) == EXPECTED, row["source"]
