"""Work on runs in the process of the test, and read their results from the database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine, RowMapping, text

from settings import Settings, get_settings
from sources.contract import Page, Source
from sources.registry import SOURCES
from tasks.ingest import work_on
from tasks.runs.claims import Claim, claim_run, join_run
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, request_runs
from tasks.runtime.database import worker_engine
from tests.content import content_hash
from tests.upstreams import canned


@dataclass
class Bench:
    """A test bench that runs sources slice by slice in this process, without a worker."""

    engine: Engine
    settings: Settings
    monkeypatch: pytest.MonkeyPatch

    def request(self, source: Source, **parameters: Any) -> uuid.UUID:
        """Register the source and request a run. Return the id of the run."""
        self.register(source)
        return request_runs(self.engine, [RunRequest(source.name, **parameters)], requested_by="test")[0].run

    def register(self, source: Source) -> None:
        """Add the source to the registry until the end of the test."""
        self.monkeypatch.setitem(SOURCES, source.name, source)  # type: ignore[arg-type]  # a dict, typed as a Mapping

    def slice(self, run: uuid.UUID, **settings: Any) -> RowMapping:
        """Work on the run for one slice if it is due. Return its row."""
        claim = claim_run(self.engine, run)
        if claim is not None:
            work_on(self.engine, replace(self.settings, **settings), claim)
        return self.run(run)

    def ingest(self, source: Source, **parameters: Any) -> RowMapping:
        """Request a run and work on it for one slice. Return its row."""
        return self.slice(self.request(source, **parameters))

    def let_leases_run_out(self) -> None:
        """Expire all leases, as if their workers had died, and run the reconciler."""
        self.rows("UPDATE checkpoints SET lease_expires = clock_timestamp() WHERE lease_run IS NOT NULL")
        self.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h' WHERE status = 'running'")
        reconcile(self.engine, self.settings)

    def run(self, run: uuid.UUID) -> RowMapping:
        """Return the run's row."""
        return self.rows("SELECT * FROM runs WHERE id = :run", run=run)[0]

    def rows(self, query: str, **values: Any) -> list[RowMapping]:
        """Execute a statement. Return its rows, or an empty list if it returns none."""
        with self.engine.begin() as connection:
            result = connection.execute(text(query), values)
            return list(result.mappings()) if result.returns_rows else []

    def one(self, query: str, **values: Any) -> Any:
        """Return the only value of a query's only row."""
        [row] = self.rows(query, **values)
        [value] = row.values()
        return value


@pytest.fixture
def bench(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, broker: object) -> Bench:
    return Bench(engine, settings, monkeypatch)


@pytest.fixture(scope="module")
def upstream() -> Iterator[HTTPServer]:
    """Yield one server for the module, because stopping a server takes half a second."""
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield server


@pytest.fixture
def claims(bench: Bench) -> tuple[Claim, Claim]:
    """Return the claim of a slice with the partitions a, b and c, and the claim of its assistant."""
    claim = claim_run(bench.engine, bench.request(canned(partitions=("a", "b", "c"))))
    assert claim
    assistant = join_run(bench.engine, claim.run, claim.number)
    assert assistant
    return claim, assistant


@pytest.fixture
def process_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Make the settings and the worker engine of this process use the database of the test."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    get_settings.cache_clear()
    worker_engine.cache_clear()
    yield monkeypatch
    worker_engine().dispose()
    monkeypatch.undo()
    get_settings.cache_clear()
    worker_engine.cache_clear()


def empty_page(cursor: int = 1) -> Page:
    """Return a page with this cursor and without items."""
    return Page(b"", "text/plain", {}, datetime.now(UTC), {"next": cursor})


@pytest.fixture
def content() -> Callable[[Engine], str]:
    """Return a function that hashes all loaded quotes by natural keys and values. Equal data has equal hashes."""
    return content_hash
