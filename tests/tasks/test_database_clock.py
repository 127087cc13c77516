"""Test that no correction and no quote is lost when the database's clock is set, at any point of a run."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import psycopg2
import pytest
import requests
from celery.exceptions import Reject as HandBack
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from app.web.watermark import Watermark
from settings import get_settings
from store.engine import make_engine
from store.tables import UNFINISHED
from tasks.ingest import ingest
from tasks.runs.reconciler import reconcile
from tasks.runtime import fault_points
from tasks.runtime.fault_points import Point
from tests.processes import Processes, until
from tests.stepped_clock import SteppedPostgres
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed
from tests.upstreams import item

SECOND, MINUTE, DAY = 1, 60, 86_400

pytestmark = pytest.mark.usefixtures("process_settings")


@pytest.fixture
def database_url(stepped_database_url: str) -> str:
    return stepped_database_url


@pytest.fixture
def feed(httpserver: HTTPServer) -> Feed:
    return Feed(httpserver, [])


@pytest.fixture
def step_at(
    stepped_server: SteppedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, float], None]]:
    """Yield a function that sets the clock when this process reaches a fault point: its signal is handled here."""
    offsets: list[float] = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: stepped_server.set_clock(offsets.pop()))
    monkeypatch.setattr(fault_points, "_FOLDER", str(tmp_path))

    def arm(point: str, offset: float) -> None:
        offsets.append(offset)
        (tmp_path / point).write_text("SIGUSR1")

    yield arm
    signal.signal(signal.SIGUSR1, previous)
    assert offsets == [], "the run did not reach the point"


class Follower:
    """A client that reads the new quotes since its last watermark, as `/data?ingested_since=` does."""

    def __init__(self, engine: Engine):
        self._engine = make_engine(engine.url.render_as_string(hide_password=False), "web", poolclass=NullPool)
        self.since: datetime | None = None
        self.prices: dict[tuple[int, datetime], Any] = {}

    def poll(self) -> datetime:
        """Read the new quotes. Return the watermark."""
        with self._engine.connect() as connection:
            watermark = Watermark().ingested_until(connection)
            connection.commit()
            rows = connection.exec_driver_sql(
                "SELECT listing_id, observed_at, price FROM quotes WHERE %(since)s IS NULL OR ingested_at >= %(since)s",
                {"since": self.since},
            )
            self.prices |= {(row.listing_id, row.observed_at): row.price for row in rows}
        self.since = watermark
        return watermark

    def assert_complete(self, bench: Bench) -> None:
        stored = {(row["listing_id"], row["observed_at"]): row["price"] for row in bench.rows("SELECT * FROM quotes")}
        assert self.prices == stored


def priced(*prices: int) -> list[list[dict[str, Any]]]:
    """Return two pages of three items each, which have these prices on the pages."""
    return [[item(3 * page + number, price=str(price)) for number in range(3)] for page, price in enumerate(prices)]


def load(bench: Bench, feed: Feed, *prices: int) -> tuple[int, ...]:
    """Load pages with these prices. Return the run's sums of updated, unchanged and superseded quotes.

    A step ahead can end a session, since Postgres measures its timeouts with this clock. Then the run waits.
    """
    feed.pages = priced(*prices)
    run = bench.request(feed.source())

    def has_ended() -> bool:
        with suppress(HandBack):  # the message returns to the queue
            ingest(str(run))
        status = bench.run(run)["status"]
        if status == "running":  # the slice could not store its wait
            reconcile(bench.engine, bench.settings)
        return status not in UNFINISHED

    until(has_ended)
    assert bench.run(run)["status"] == "succeeded"
    return sums(bench, run)


def sums(bench: Bench, run: uuid.UUID) -> tuple[int, ...]:
    """Return a run's sums of updated, unchanged and superseded quotes."""
    [row] = bench.rows(
        "SELECT sum(updated) AS updated, sum(unchanged) AS unchanged, sum(superseded) AS superseded"
        " FROM pages WHERE run = :run",
        run=run,
    )
    return tuple(row.values())


def steps(logs: list[Any]) -> list[str]:
    return [entry["event"] for entry in logs if entry["event"].startswith("clock_")]


@pytest.mark.parametrize("offsets", [(-SECOND,), (-MINUTE,), (-DAY,), (DAY, 0)], ids=str)
def test_corrections_after_a_step_between_runs_win_and_reach_every_follower(
    stepped_server: SteppedPostgres, bench: Bench, feed: Feed, offsets: tuple[float, ...]
) -> None:
    follower = Follower(bench.engine)
    load(bench, feed, 1, 2)
    follower.poll()
    with capture_logs() as logs:
        for round_, offset in enumerate(offsets, 1):
            stepped_server.set_clock(offset)
            assert load(bench, feed, 10 * round_, 20 * round_) == (6, 0, 0)
            follower.poll()
            assert load(bench, feed, 10 * round_ + 1, 20 * round_ + 1) == (6, 0, 0)
    follower.poll()
    follower.assert_complete(bench)
    assert steps(logs) == ["clock_set_back"]


@pytest.mark.parametrize("point", get_args(Point))
def test_steps_at_a_fault_point_cost_no_correction(
    process_settings: pytest.MonkeyPatch,
    bench: Bench,
    feed: Feed,
    step_at: Callable[[str, float], None],
    point: str,
) -> None:
    """The clock steps back by a second, a minute and a day. Then it is right, a day ahead, and right again."""
    process_settings.setenv("TASK_SLICE", "0.001")  # one page per slice
    get_settings.cache_clear()
    follower = Follower(bench.engine)
    load(bench, feed, 1, 2)
    with capture_logs() as logs:
        # A step at a late point affects the run after it, whose own step comes at the same late point.
        for price, offset in enumerate((-SECOND, -SECOND - MINUTE, -MINUTE - DAY, 0, DAY, 0), 10):
            follower.poll()
            step_at(point, offset)
            assert load(bench, feed, price, price) == (6, 0, 0)
        assert load(bench, feed, 100, 100) == (6, 0, 0)
    assert steps(logs).count("clock_set_back") == 4
    follower.poll()
    follower.assert_complete(bench)
    assert bench.one("SELECT count(*) FROM pages WHERE committed_at < fetched_at") == 0
    assert bench.one("SELECT count(*) FROM runs WHERE finished_at < started_at OR started_at < requested_at") == 0


@pytest.mark.parametrize("step", [-SECOND, -MINUTE, -DAY])
def test_a_writer_that_began_before_a_step_holds_the_watermark_back(
    stepped_server: SteppedPostgres, bench: Bench, feed: Feed, step: float
) -> None:
    follower = Follower(bench.engine)
    load(bench, feed, 1, 2)
    with closing(psycopg2.connect(bench.settings.database_url, application_name="kasparro-worker")) as writer:
        with writer.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id(), now()")
            [_, ingested_at] = cursor.fetchone() or (None, None)
        stepped_server.set_clock(step)
        load(bench, feed, 10, 20)
        assert follower.poll() <= ingested_at
        writer.rollback()
    load(bench, feed, 11, 21)
    until(lambda: follower.poll() > ingested_at)
    follower.assert_complete(bench)


def test_a_step_is_reported_once_by_all_processes_and_degrades_the_health(
    stepped_server: SteppedPostgres, bench: Bench, processes: Processes
) -> None:
    started = [processes.start(role) for role in ("worker", "control")]
    started.append(processes.start("beat"))
    web = processes.serve()
    processes.until_ready(*started[:2])
    until(lambda: len(bench.rows("SELECT FROM heartbeats")) == 3)
    stepped_server.set_clock(-DAY)
    until(lambda: bench.rows("SELECT FROM clock"))
    until(lambda: "clock_set_back" in _events(processes))
    check = requests.get(f"{web.url}/health", timeout=10).json()["checks"]["clock"]
    assert check["status"] == "degraded"
    assert " s ahead of it, and they agree again at " in check["detail"]
    until(lambda: bench.one("SELECT count(*) FROM heartbeats WHERE beaten_at > service_time() - interval '3 s'") == 3)
    assert _events(processes).count("clock_set_back") == 1


def _events(processes: Processes) -> list[str]:
    lines = [line for process in processes.started for line in process.log.read_text().splitlines()]
    return [json.loads(line).get("event", "") for line in lines if line.startswith("{")]
