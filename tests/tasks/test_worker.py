"""What a real worker does when it, or what it stands on, is taken away."""

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
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, publish, request_runs
from tests.processes import Process, free_port, until
from tests.upstreams import Gate, Markets, coins

TOKEN = "a-token-of-the-tests-0123456789"
KEY = "CG-the-key-that-must-not-be-seen"
Start = Callable[..., Process]


class Held(NamedTuple):
    run: uuid.UUID
    worker: Process
    gate: Gate


@pytest.fixture
def markets() -> Iterator[Markets]:
    """Two full pages of coins and a third that is not full, the last of them without a price."""
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield Markets(server, [*coins(2 * 250 + 20), {**coins(1)[0], "id": "priceless", "current_price": None}])


def ask(engine: Engine, **parameters: Any) -> uuid.UUID:
    [requested] = request_runs(engine, [RunRequest("coingecko", **parameters)], requested_by="test")
    return requested.run


def status_of(engine: Engine, run: uuid.UUID) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run}))


def ended(engine: Engine, run: uuid.UUID, settings: Settings | None = None, within: float = 30) -> str:
    """The status that the run ends with; with settings, the reconciler looks after it meanwhile."""

    def status() -> str | None:
        if settings:
            reconcile(engine, settings)
        now = status_of(engine, run)
        return None if now in ("queued", "running", "waiting") else now

    return until(status, within=within, what=f"run {run} ended; it is {status_of(engine, run)}") or ""


@pytest.fixture
def held(engine: Engine, start: Start, markets: Markets) -> Held:
    """A run whose worker has committed its first page, and waits for the second."""
    gate = Gate()
    markets.before = lambda page: gate.pass_through() if page == 2 else None
    run = ask(engine)
    worker = start("worker", COINGECKO_URL=markets.url)
    assert gate.reached.wait(20)
    return Held(run, worker, gate)


@pytest.fixture
def undisturbed(
    make_database: Callable[[], str],
    content: Callable[[Engine], str],
    settings: Settings,
    markets: Markets,
    monkeypatch: pytest.MonkeyPatch,
    broker: Redis,
) -> str:
    """What is there after a run that nothing happened to."""
    engine = make_engine(make_database(), "test")
    claim = claim_run(engine, ask(engine))
    assert claim
    with monkeypatch.context() as patched:
        patched.setenv("COINGECKO_URL", markets.url)
        work_on(engine, settings, claim)
    assert status_of(engine, claim.run) == "succeeded"
    markets.asked.clear()
    broker.flushall()
    loaded = content(engine)
    engine.dispose()
    return loaded


def test_a_worker_killed_in_the_middle_of_a_run_leaves_no_trace_in_the_data(
    engine: Engine,
    settings: Settings,
    start: Start,
    markets: Markets,
    undisturbed: str,
    held: Held,
    content: Callable[[Engine], str],
) -> None:
    held.worker.kill()
    held.gate.open.set()
    assert status_of(engine, held.run) == "running"

    start("worker", COINGECKO_URL=markets.url)
    assert ended(engine, held.run, settings) == "succeeded"
    assert markets.asked == [1, 2, 2, 3]
    assert content(engine) == undisturbed


def test_a_worker_killed_in_the_middle_of_a_pages_transaction_leaves_no_trace_in_the_data(
    engine: Engine,
    settings: Settings,
    start: Start,
    markets: Markets,
    undisturbed: str,
    content: Callable[[Engine], str],
) -> None:
    run = ask(engine)
    holding = make_engine(settings.database_url, "holder", isolation_level="AUTOCOMMIT")
    with holding.connect() as holder:
        # What every page's transaction asks for after its COPY.
        holder.execute(text("SELECT pg_advisory_lock(hashtextextended('coingecko', 0))"))
        doomed = start("worker", COINGECKO_URL=markets.url)
        until(lambda: holder.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")))
        doomed.kill()
    holding.dispose()
    start("worker", COINGECKO_URL=markets.url)
    assert ended(engine, run, settings) == "succeeded"
    assert content(engine) == undisturbed


def test_two_messages_of_one_run_do_its_work_once(
    engine: Engine, start: Start, markets: Markets, undisturbed: str, content: Callable[[Engine], str]
) -> None:
    run = ask(engine)
    for _ in range(5):
        publish(engine, [run])
    worker = start("worker", COINGECKO_URL=markets.url)
    assert ended(engine, run) == "succeeded"
    until(lambda: worker.log.read_text().count("run_skipped") == 5, what="the other messages ended")
    assert markets.asked == [1, 2, 3]
    assert content(engine) == undisturbed


def test_two_runs_of_one_source_at_once_one_works_and_the_other_steps_aside(
    engine: Engine, settings: Settings, undisturbed: str, held: Held, content: Callable[[Engine], str]
) -> None:
    second = uuid.uuid4()
    with engine.begin() as connection:
        # Live runs of one source exclude each other already when they are asked for. Were they ever to meet:
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
    held.gate.open.set()
    assert ended(engine, held.run, settings) == "succeeded"
    assert ended(engine, second, settings) == "succeeded"
    assert content(engine) == undisturbed


def test_an_api_key_appears_in_no_log_no_row_and_no_answer(
    engine: Engine, settings: Settings, start: Start, markets: Markets
) -> None:
    """Not even where the upstream sends it back, as error pages do."""

    def answer(page: int) -> Response | None:
        if page == 2 and markets.asked.count(2) < 3:
            return Response(f"bad key {KEY}", status=500, headers={"X-Key": KEY})
        if page == 3:
            lies = markets.asked.count(3) == 1
            return Response(json.dumps({"error": f"bad key {KEY}"}), status=200 if lies else 403)
        return None

    markets.before = answer
    port = free_port()
    environ = {"COINGECKO_URL": markets.url, "COINGECKO_API_KEY": KEY, "API_TOKEN": TOKEN, "WEB_PORT": str(port)}
    run = ask(engine)
    worker, web = start("worker", **environ), start("web", **environ)
    assert ended(engine, run, settings) == "failed"
    assert {headers["X-Cg-Demo-Api-Key"] for headers in markets.headers} == {KEY}

    answered = until(lambda: answers(port, "/health/live")) + "".join(
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
    assert "coingecko" in answered
    for where in (answered, worker.log.read_text(), web.log.read_text(), dump(engine)):
        assert KEY not in where
        assert TOKEN not in where


def test_a_run_asked_for_while_redis_is_down_is_kept_and_happens_when_redis_is_back(
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
        until(lambda: answers(port, "/health/live"))
        valkey.stop()
        asked = requests.post(
            f"http://127.0.0.1:{port}/runs",
            json={"source": "coingecko"},
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=5,
        )
        assert asked.status_code == 202
        run = uuid.UUID(asked.json()["data"][0]["id"])
        assert status_of(engine, run) == "queued"
        valkey.start()
        for role in ("worker", "control", "beat"):
            start(role, **environ)
        assert ended(engine, run) == "succeeded"


def test_a_real_beat_has_each_source_run_and_a_canary_consumed(engine: Engine, start: Start, markets: Markets) -> None:
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


@pytest.mark.parametrize("tell", [os.kill, os.killpg])
def test_a_worker_that_is_told_to_stop_loads_the_page_in_hand_and_leaves_the_rest_to_others(
    engine: Engine,
    start: Start,
    markets: Markets,
    undisturbed: str,
    held: Held,
    content: Callable[[Engine], str],
    tell: Callable[[int, int], None],
) -> None:
    """Told alone, or together with the processes that it forked: supervisors do either."""
    tell(held.worker.pid, signal.SIGTERM)
    until(lambda: "Warm shutdown" in held.worker.log.read_text())
    held.gate.open.set()
    held.worker.wait(20)
    assert markets.asked == [1, 2]
    assert status_of(engine, held.run) == "queued"
    start("worker", COINGECKO_URL=markets.url)
    assert ended(engine, held.run) == "succeeded"
    assert markets.asked == [1, 2, 3]
    assert content(engine) == undisturbed


def answers(port: int, path: str) -> str | None:
    try:
        return requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).text
    except requests.ConnectionError:
        return None


def dump(engine: Engine) -> str:
    """Every row of every table, as text; bytes too."""
    with engine.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        rows = [connection.execute(text(f"SELECT t::text FROM {table} AS t")).all() for table in tables]
    return repr(rows)
