"""Test that loads go on while migrations run: nothing fails, and the data equals that of undisturbed loads.

MIGRATION_ROUNDS: the number of times that the schema is set back and migrated again; 2 by default.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import cycle, islice
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError

from settings import Settings
from sources.contract import Source
from store.engine import make_engine
from store.errors import classify
from store.schema import REVISIONS, explain
from tasks.runs.reconciler import reconcile
from tests.content import content_hash
from tests.processes import until
from tests.servers import alembic
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED, canned, item

ROUNDS = int(os.environ.get("MIGRATION_ROUNDS", "2"))
STEP = 5
"""Revisions between those of two rounds. Over many rounds, each revision gets its turn."""

SOURCES = ("first", "second")


def source(name: str, number: int) -> Source:
    """Return a source whose pages correct the quotes of the run before, and add a quote of a new listing."""
    pages = [[item(coin, price=str(number + 1)) for coin in range(page, 20 + number, 3)] for page in range(3)]
    return canned(*pages, name=name, fetched_at=FETCHED + timedelta(hours=number))


@contextmanager
def bench_of(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    engine = make_engine(settings.database_url, "worker", transaction_timeout=settings.transaction_timeout)
    yield Bench(engine, replace(settings, retry_after_failure=0.01, max_waits=1, max_attempts=100), monkeypatch)
    engine.dispose()


def patiently(bench: Bench, step: Callable[[], Any]) -> Any:
    """Return the result of a step, and repeat it while the database cannot execute it, as the service does."""

    def attempt() -> Any:
        try:
            return step()
        except SQLAlchemyError as error:
            if classify(explain(bench.engine, error)) is None:
                raise
            return None

    return until(attempt, within=60)


def load(bench: Bench, name: str, number: int) -> uuid.UUID:
    """Request a run of a source and work on it until it has ended."""
    run: uuid.UUID = patiently(bench, lambda: bench.request(source(name, number)))

    def has_ended() -> bool:
        reconcile(bench.engine, bench.settings)  # requeues a run whose slice could not store its wait
        return bench.slice(run)["status"] in ("succeeded", "failed", "partial")

    patiently(bench, has_ended)
    return run


def load_until(bench: Bench, name: str, end: threading.Event) -> int:
    """Load run after run. Return their number."""
    number = 0
    while not end.is_set():
        run = load(bench, name, number)
        assert patiently(bench, lambda run=run: bench.run(run)["status"]) == "succeeded"
        number += 1
    return number


def reconcile_until(bench: Bench, end: threading.Event) -> None:
    """Requeue, as the control worker does, the runs that could not even be postponed on an old schema."""
    while not end.wait(0.5):
        reconcile(bench.engine, bench.settings)


def test_loads_continue_through_migrations_from_each_earlier_revision(
    make_database: Callable[[], str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    broker: object,
) -> None:
    end, loaded = threading.Event(), threading.Event()
    with bench_of(settings, monkeypatch) as bench, ThreadPoolExecutor(len(SOURCES) + 1) as pool:
        loads = [pool.submit(load_until, bench, name, end) for name in SOURCES]
        sweeps = pool.submit(reconcile_until, bench, loaded)
        try:
            for revision in islice(cycle(REVISIONS[:-1]), 0, ROUNDS * STEP, STEP):
                alembic(settings.database_url, "downgrade", revision)
                alembic(settings.database_url, "upgrade", "head")
        finally:
            end.set()
        try:
            counts = [future.result(60) for future in loads]
        finally:
            loaded.set()
        sweeps.result(60)
        assert bench.one("SELECT count(*) FROM runs WHERE status <> 'succeeded'") == 0
        disturbed = content_hash(bench.engine)
    undisturbed = replace(settings, database_url=make_database())
    with bench_of(undisturbed, monkeypatch) as bench:
        for name, count in zip(SOURCES, counts, strict=True):
            for number in range(count):
                load(bench, name, number)
        assert content_hash(bench.engine) == disturbed
    print(f"{ROUNDS} rounds, {sum(counts)} runs")  # noqa: T201 — the figure of a long run
