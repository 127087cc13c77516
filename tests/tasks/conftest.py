"""Working on a run in the test's own process, and looking at what it left behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Engine, RowMapping, text

from settings import Settings
from sources.contract import Source
from sources.registry import SOURCES
from tasks.ingest import work_on
from tasks.runs.claims import claim_run
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, request_runs
from tests.content import content_hash


@dataclass
class Bench:
    """Runs of a source, slice by slice, in this process; no broker is needed for that."""

    engine: Engine
    settings: Settings
    monkeypatch: pytest.MonkeyPatch

    def request(self, source: Source, **parameters: Any) -> uuid.UUID:
        self.register(source)
        return request_runs(self.engine, [RunRequest(source.name, **parameters)], requested_by="test")[0].run

    def register(self, source: Source) -> None:
        self.monkeypatch.setitem(SOURCES, source.name, source)  # type: ignore[arg-type]  # a dict, to everyone a Mapping

    def slice(self, run: uuid.UUID, **settings: Any) -> RowMapping:
        """Work on a run for one slice, if it is due; gives its row."""
        claim = claim_run(self.engine, run)
        if claim is not None:
            work_on(self.engine, replace(self.settings, **settings), claim)
        return self.run(run)

    def ingest(self, source: Source, **parameters: Any) -> RowMapping:
        """One run of one slice, from its request to its row."""
        return self.slice(self.request(source, **parameters))

    def let_leases_run_out(self) -> None:
        """What time does where a worker has left its run: the reconciler sees to it."""
        self.rows("UPDATE checkpoints SET lease_expires = clock_timestamp() WHERE lease_run IS NOT NULL")
        self.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h' WHERE status = 'running'")
        reconcile(self.engine, self.settings)

    def run(self, run: uuid.UUID) -> RowMapping:
        return self.rows("SELECT * FROM runs WHERE id = :run", run=run)[0]

    def rows(self, query: str, **values: Any) -> list[RowMapping]:
        with self.engine.begin() as connection:
            result = connection.execute(text(query), values)
            return list(result.mappings()) if result.returns_rows else []

    def one(self, query: str, **values: Any) -> Any:
        """The one value that a query gives."""
        [row] = self.rows(query, **values)
        [value] = row.values()
        return value


@pytest.fixture
def bench(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, broker: object) -> Bench:
    return Bench(engine, settings, monkeypatch)


@pytest.fixture
def content() -> Callable[[Engine], str]:
    """A hash over all that was loaded, by natural keys and values: equal for equal data, however it came."""
    return content_hash
