"""Test that worker processes lose, repeat and expose no data if processes or servers are killed."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from pytest_httpserver import HTTPServer
from redis import Redis
from sqlalchemy import Engine, text
from werkzeug import Response

from devstack.valkey import Valkey
from settings import Settings
from store.engine import make_engine
from tasks.ingest import work_on
from tasks.runs.claims import claim_run
from tasks.runs.publishing import publish
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, request_runs
from tests.processes import Process, free_port, until
from tests.upstreams import Gate, Markets, coins

TOKEN = "a-token-of-the-tests-0123456789"
KEY = "CG-the-key-that-must-not-be-seen"
Start = Callable[..., Process]


class BlockedRun(NamedTuple):
    """A run, and its worker that is blocked by a gate."""

    run: uuid.UUID
    worker: Process
    gate: Gate


@pytest.fixture
def markets() -> Iterator[Markets]:
    """Yield an upstream with two full pages and a partial third page. The last coin has no price."""
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield Markets(server, [*coins(2 * 250 + 20), {**coins(1)[0], "id": "priceless", "current_price": None}])


def request_run(engine: Engine, **parameters: Any) -> uuid.UUID:
    [requested] = request_runs(engine, [RunRequest("coingecko", **parameters)], requested_by="test")
    return requested.run


def status_of(engine: Engine, run: uuid.UUID) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run}))


def final_status(engine: Engine, run: uuid.UUID, settings: Settings | None = None, within: float = 30) -> str:
    """Wait until the run has ended, and return its status. If settings are given, run the reconciler meanwhile."""

    def ended() -> str | None:
        if settings:
            reconcile(engine, settings)
        status = status_of(engine, run)
        return None if status in ("queued", "running", "waiting") else status

    return until(ended, within=within, what=f"run {run} ended; it is {status_of(engine, run)}") or ""


@pytest.fixture
def blocked(engine: Engine, start: Start, markets: Markets) -> BlockedRun:
    """Return a run whose worker has committed the first page and waits for the second page."""
    gate = Gate()
    markets.before = lambda page: gate.pass_through() if page == 2 else None
    run = request_run(engine)
    worker = start("worker", COINGECKO_URL=markets.url)
    assert gate.reached.wait(20)
    return BlockedRun(run, worker, gate)


@pytest.fixture
def expected_content(
    make_database: Callable[[], str],
    content: Callable[[Engine], str],
    settings: Settings,
    markets: Markets,
    monkeypatch: pytest.MonkeyPatch,
    broker: Redis,
) -> str:
    """Return a hash of the data after a run without faults."""
    engine = make_engine(make_database(), "test")
    claim = claim_run(engine, request_run(engine))
    assert claim
    with monkeypatch.context() as patched:
        patched.setenv("COINGECKO_URL", markets.url)
        work_on(engine, settings, claim)
    assert status_of(engine, claim.run) == "succeeded"
    markets.requested_pages.clear()
    broker.flushall()
    loaded = content(engine)
    engine.dispose()
    return loaded


def test_killing_a_worker_between_pages_does_not_change_the_data(
    engine: Engine,
    settings: Settings,
    start: Start,
    markets: Markets,
    expected_content: str,
    blocked: BlockedRun,
    content: Callable[[Engine], str],
) -> None:
    blocked.worker.kill()
    blocked.gate.open.set()
    assert status_of(engine, blocked.run) == "running"

    start("worker", COINGECKO_URL=markets.url)
    assert final_status(engine, blocked.run, settings) == "succeeded"
    assert markets.requested_pages == [1, 2, 2, 3]
    assert content(engine) == expected_content


def test_killing_a_worker_during_a_transaction_does_not_change_the_data(
    engine: Engine,
    settings: Settings,
    start: Start,
    markets: Markets,
    expected_content: str,
    content: Callable[[Engine], str],
) -> None:
    run = request_run(engine)
    blocker = make_engine(settings.database_url, "blocker", isolation_level="AUTOCOMMIT")
    with blocker.connect() as connection:
        # Every page's transaction takes this lock after its COPY.
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended('coingecko', 0))"))
        worker = start("worker", COINGECKO_URL=markets.url)
        until(
            lambda: connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        )
        worker.kill()
    blocker.dispose()
    start("worker", COINGECKO_URL=markets.url)
    assert final_status(engine, run, settings) == "succeeded"
    assert content(engine) == expected_content


def test_repeated_messages_execute_a_run_once(
    engine: Engine, start: Start, markets: Markets, expected_content: str, content: Callable[[Engine], str]
) -> None:
    run = request_run(engine)
    for _ in range(5):
        publish(engine, [run])
    worker = start("worker", COINGECKO_URL=markets.url)
    assert final_status(engine, run) == "succeeded"
    until(lambda: worker.log.read_text().count("run_skipped") == 5, what="the other messages were skipped")
    assert markets.requested_pages == [1, 2, 3]
    assert content(engine) == expected_content


def test_a_second_simultaneous_run_of_a_source_waits(
    engine: Engine, settings: Settings, expected_content: str, blocked: BlockedRun, content: Callable[[Engine], str]
) -> None:
    second = uuid.uuid4()
    with engine.begin() as connection:
        # This index normally prevents a second unfinished live run of a source.
        connection.execute(text("DROP INDEX runs_one_of_a_kind_per_source"))
        connection.execute(
            text("""
                INSERT INTO runs (id, source, kind, status, requested_by)
                VALUES (:run, 'coingecko', 'live', 'queued', 'test')
            """),
            {"run": second},
        )
    publish(engine, [second])
    until(lambda: status_of(engine, second) == "waiting")
    blocked.gate.open.set()
    assert final_status(engine, blocked.run, settings) == "succeeded"
    assert final_status(engine, second, settings) == "succeeded"
    assert content(engine) == expected_content


def test_an_api_key_is_never_logged_stored_or_returned(
    engine: Engine, settings: Settings, start: Start, markets: Markets
) -> None:
    """The upstream repeats the key in its error responses."""

    def respond(page: int) -> Response | None:
        if page == 2 and markets.requested_pages.count(2) < 3:
            return Response(f"bad key {KEY}", status=500, headers={"X-Key": KEY})
        if page == 3:
            is_first = markets.requested_pages.count(3) == 1
            return Response(json.dumps({"error": f"bad key {KEY}"}), status=200 if is_first else 403)
        return None

    markets.before = respond
    port = free_port()
    environ = {"COINGECKO_URL": markets.url, "COINGECKO_API_KEY": KEY, "API_TOKEN": TOKEN, "WEB_PORT": str(port)}
    run = request_run(engine)
    worker, web = start("worker", **environ), start("web", **environ)
    assert final_status(engine, run, settings) == "failed"
    assert {headers["X-Cg-Demo-Api-Key"] for headers in markets.headers} == {KEY}

    responses = until(lambda: get(port, "/health/live")) + "".join(
        requests.get(f"http://127.0.0.1:{port}{path}", timeout=10).text
        for path in (
            "/runs",
            f"/runs/{run}",
            "/sources",
            "/sources/coingecko",
            "/stats",
            "/data",
            "/health",
            "/metrics",
        )
    )
    assert "coingecko" in responses
    for output in (responses, worker.log.read_text(), web.log.read_text(), dump(engine)):
        assert KEY not in output
        assert TOKEN not in output


def test_a_run_requested_while_redis_is_down_starts_when_redis_is_up_again(
    engine: Engine, start: Start, markets: Markets, tmp_path: Path
) -> None:
    with Valkey(tmp_path) as valkey:
        port = free_port()
        environ = {
            "REDIS_URL": valkey.url,
            "COINGECKO_URL": markets.url,
            "API_TOKEN": TOKEN,
            "WEB_PORT": str(port),
        }
        start("web", **environ)
        until(lambda: get(port, "/health/live"))
        valkey.stop()
        response = requests.post(
            f"http://127.0.0.1:{port}/runs",
            json={"source": "coingecko"},
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=5,
        )
        assert response.status_code == 202
        run = uuid.UUID(response.json()["data"][0]["id"])
        assert status_of(engine, run) == "queued"
        valkey.start()
        for role in ("worker", "control", "beat"):
            start(role, **environ)
        assert final_status(engine, run) == "succeeded"


def test_beat_requests_runs_of_each_source_and_all_heartbeats_are_recorded(
    engine: Engine, start: Start, markets: Markets
) -> None:
    environ = {
        "COINGECKO_URL": markets.url,
        "COINPAPRIKA_URL": markets.url,
        "CSV_DIR": str(Path("sample_data/csv").absolute()),
    }
    for role in ("worker", "control", "beat"):
        start(role, **environ)

    def rows(query: str) -> set[Any]:
        with engine.connect() as connection:
            return set(connection.scalars(text(query)))

    until(lambda: rows("SELECT part FROM heartbeats") == {"beat", "control", "worker"})
    until(lambda: rows("SELECT source FROM runs WHERE scheduled_for IS NOT NULL") >= {"coingecko", "csv_history"})
    until(lambda: "succeeded" in rows("SELECT status FROM runs WHERE source = 'coingecko'"))


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_worker_that_receives_sigterm_finishes_its_page_and_releases_its_run(
    engine: Engine,
    start: Start,
    markets: Markets,
    expected_content: str,
    blocked: BlockedRun,
    content: Callable[[Engine], str],
    send: Callable[[int, int], None],
) -> None:
    """Supervisors may send the signal only to the worker, or also to its forked processes."""
    send(blocked.worker.pid, signal.SIGTERM)
    until(lambda: "Warm shutdown" in blocked.worker.log.read_text())
    blocked.gate.open.set()
    blocked.worker.wait(20)
    assert markets.requested_pages == [1, 2]
    assert status_of(engine, blocked.run) == "queued"
    start("worker", COINGECKO_URL=markets.url)
    assert final_status(engine, blocked.run) == "succeeded"
    assert markets.requested_pages == [1, 2, 3]
    assert content(engine) == expected_content


def get(port: int, path: str) -> str | None:
    """Return the body of a response, or None if no server listens yet."""
    try:
        return requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).text
    except requests.ConnectionError:
        return None


def dump(engine: Engine) -> str:
    """Return every row of every table as text, including bytes."""
    with engine.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        rows = [connection.execute(text(f"SELECT t::text FROM {table} AS t")).all() for table in tables]
    return repr(rows)
