"""Run sources on a database that fails over, and verify that nothing is lost, doubled or wrong afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from tasks.ingest import work_on
from tasks.runs.claims import ClaimLost, claim_run, is_stored
from tasks.runs.leases import LeaseLost
from tasks.runs.reconciler import reconcile
from tests.chaos.invariants import violations
from tests.standby import Failover
from tests.tasks.conftest import Bench
from tests.upstreams import OBSERVED, item

COINS = 70
"""Coins of a page. Postgres hands out the ids of lost listings again once a page has more than 32 of them."""

QUOTES = "SELECT source, source_asset_id, observed_at, price::text FROM quotes JOIN listings ON id = listing_id"


def page(first: int, *, price: str = "1.5", minute: int = 0) -> list[dict[str, Any]]:
    """Return a page of COINS coins, whose prices differ."""
    at = OBSERVED.replace(minute=minute).isoformat()
    return [item(number, price=f"{price}{number:04}", observed_at=at) for number in range(first, first + COINS)]


@dataclass
class Service:
    """A service on a database that fails over. failover: its servers. bench: runs sources in this process."""

    failover: Failover
    bench: Bench

    def work(self, run: uuid.UUID) -> None:
        """Work on a run for one slice. Like a worker, ignore lost claims and leases."""
        claim = claim_run(self.bench.engine, run)
        try:
            if claim is not None:
                work_on(self.bench.engine, self.bench.settings, claim)
        except (ClaimLost, LeaseLost):
            pass

    def sweep(self) -> None:
        assert reconcile(self.bench.engine, self.bench.settings)

    def finish(self, run: uuid.UUID) -> str | None:
        """Sweep and work until a run has ended. Return its status, or None if the database has lost it."""
        for _ in range(6):
            if not is_stored(self.bench.engine, run):
                return None
            if self.bench.run(run)["finished_at"]:
                break
            self.bench.let_leases_run_out()
            self.bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
            self.work(run)
        return str(self.bench.run(run)["status"])

    def assert_equal(self, upstreams: Mapping[str, Sequence[Sequence[dict[str, Any]]]]) -> None:
        """Assert that the stored quotes are those of the upstreams' pages, and that no invariant is violated."""
        expected = {
            (source, quote["source_asset_id"], quote["observed_at"], quote["price"])
            for source, pages in upstreams.items()
            for quotes in pages
            for quote in quotes
        }
        rows = [tuple(row.values()) for row in self.bench.rows(QUOTES)]
        stored = [(source, id_, at.isoformat(), price) for source, id_, at, price in rows]
        assert len(stored) == len(set(stored))
        assert set(stored) == expected
        with self.bench.engine.connect() as connection:
            assert list(violations(connection)) == []

    def health(self) -> list[str]:
        """Return the sources that are named because of the set-back."""
        with self.bench.engine.connect() as connection:
            query = "SELECT source FROM anomalies WHERE kind = 'set_back' AND over_at IS NULL ORDER BY source"
            return list(connection.scalars(text(query)))
