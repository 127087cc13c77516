"""Stop, restart, freeze, lock or overload Postgres, or cut connections to it, while workers load data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

import psycopg2
import requests
from sqlalchemy import text

from devstack.postgres import DATABASE
from tests.chaos.data_copies import signal_server
from tests.chaos.faults_workers import start_runs
from tests.chaos.registry import fault
from tests.chaos.stage import Stage
from tests.processes import ROOT, Process, until
from tests.wire import Wire

LAST_INSERT_OF_PAGE = b"INSERT INTO pages"
SESSIONS = "pg_stat_activity WHERE application_name IN ('kasparro-worker', 'kasparro-web')"
OUTAGE_SECONDS = 60.0
"""Duration in seconds of an outage that every process must survive."""

FROZEN_SECONDS = 8.0
REFUSES_WITHIN = 6.0
"""Maximum seconds until the API reports that the database is unavailable, for any cause."""


@fault("every session terminated repeatedly with pg_terminate_backend")
def sessions_terminated(stage: Stage) -> str:
    start_runs(stage, "csv_history", "coingecko")
    terminated = 0
    for _ in range(20):
        stage.mark_fault()
        terminated += stage.scalar(f"SELECT count(pg_terminate_backend(pid)) FROM {SESSIONS}")
        time.sleep(0.2)
    stage.settle()
    return f"{terminated} sessions; {_summary(stage)}"


@fault("response to a page's COMMIT lost repeatedly", short=True)
def commit_responses_lost(stage: Stage) -> str:
    """Commit a page, and break the connection before its worker receives the response."""
    stage.environ |= {"TRANSACTION_TIMEOUT": "4", "LEASE": "12"}  # Leave time for retries on a busy machine.
    with Wire(stage.environ["DATABASE_URL"]) as wire:
        stage.start("control")
        worker = stage.start("worker", DATABASE_URL=wire.url)
        [run] = stage.request("csv_history")
        for _ in range(10):
            wire.cut(1, since=LAST_INSERT_OF_PAGE, withhold_response=True)
            until(lambda: wire.struck, what="a page is committed")
            stage.mark_fault()
        wire.heal()
        stage.settle()
    recognized = worker.log.read_text().count("commit_response_lost")
    assert recognized == 10, f"only {recognized} of 10 commits without a response were recognized"
    assert stage.run(run).claims == 1, "the run was requeued"
    return "10 times; the same slice recognized each commit"


@fault("a connection that goes silent during a COPY, three times")
def silent_during_copy(stage: Stage) -> str:
    """Forward nothing during a COPY. Postgres waits for more rows, and its timeouts do not apply."""
    with Wire(stage.environ["DATABASE_URL"]) as wire:
        control = stage.start("control")
        stage.start("worker", DATABASE_URL=wire.url)
        stage.request("csv_history")
        for number in range(1, 4):
            wire.cut(1, since=b"COPY quotes", silent=True)
            until(lambda: wire.struck, what="a page is copied")
            stage.mark_fault()
            until(partial(_has_ended_sessions, control, number), what="the reconciler terminated the session")
            wire.heal()
        stage.settle()
    return f"the reconciler terminated the session each time; {_summary(stage)}"


def _has_ended_sessions(control: Process, number: int) -> bool:
    return control.log.read_text().count("session_terminated") >= number


@fault("the connection cut at every statement of a slice, with and without its response, briefly and for long")
def cut_at_every_statement(stage: Stage) -> str:
    """Run the test of cut connections in a separate process. The test checks the invariants after each cut."""
    completed = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/tasks/pipeline/test_cut_connections.py", "-k", "any_statement", "-s"],
        cwd=ROOT,
        env={**os.environ, "EVERY_STATEMENT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    cuts = [int(line.split()[1]) for line in completed.stdout.splitlines() if line.startswith("cuts: ")]
    return f"{sum(cuts)} cuts at {max(cuts)} statements"


@fault("Postgres restarted three times")
def restarted(stage: Stage) -> str:
    start_runs(stage, "csv_history", "coingecko")
    for _ in range(3):
        _interrupt(stage, stage.postgres.stop)
        until(lambda: _has_progressed(stage))
    stage.settle()
    return _summary(stage)


@fault("kill -9 of Postgres, three times")
def killed(stage: Stage) -> str:
    start_runs(stage, "csv_history", "coingecko")
    for _ in range(3):
        _interrupt(stage, stage.postgres.kill)
        until(lambda: _has_progressed(stage))
    stage.settle()
    return _summary(stage)


@fault("Postgres down for a minute, with every process running")
def down(stage: Stage) -> str:
    """Expect worker, control, beat and the API to keep running and to recover by themselves."""
    started = start_runs(stage, "csv_history", "coingecko", roles=("worker", "control", "beat"))
    web = stage.web()
    stage.mark_fault()
    with stage.outage():
        stage.postgres.stop()
        restarts_at = time.monotonic() + OUTAGE_SECONDS
        slowest = max(_seconds_until_503(web.url + path) for path in ("/data", "/runs", "/health"))
        time.sleep(restarts_at - time.monotonic())
        stage.mark_fault()
        stage.postgres.start()
    stage.settle()
    until(lambda: _all_have_heartbeats(stage), within=20, what="worker, control and beat sent heartbeats again")
    _assert_alive(stage, *started, web)
    stage.request("coinpaprika")
    stage.settle()
    return f"the API returned 503 within {slowest:.1f} s; {_summary(stage)}"


@fault("Postgres frozen with SIGSTOP for longer than the lease")
def frozen(stage: Stage) -> str:
    """Freeze a Postgres that still accepts connections, but never responds."""
    start_runs(stage, "csv_history", "coingecko")
    web = stage.web()
    with stage.outage():
        stage.mark_fault()
        signal_server(stage.postgres, signal.SIGSTOP)
        try:
            slowest = _seconds_until_503(web.url + "/health")
            time.sleep(FROZEN_SECONDS)
        finally:
            signal_server(stage.postgres, signal.SIGCONT)
    stage.settle()
    return f"/health returned 503 within {slowest:.1f} s; {_summary(stage)}"


@fault("Postgres read-only like a standby, then writable again")
def standby(stage: Stage) -> str:
    """Keep the read-only sessions open. A worker must close them by itself."""
    worker, *_ = start_runs(stage, "csv_history", "coingecko")
    run_sql, change = stage.servers.postgres.run_sql, f"ALTER DATABASE {DATABASE} SET default_transaction_read_only"
    stage.mark_fault()
    with stage.outage():
        run_sql(f"{change} = on")
        stage.scalar(f"SELECT count(pg_terminate_backend(pid, 1000)) FROM {SESSIONS}")
        until(lambda: "read_only_sql_transaction" in worker.log.read_text(), what="a worker got a read-only session")
        time.sleep(3)
        run_sql(f"{change} = off")
    stage.settle()
    return _summary(stage)


@fault("all Postgres connections taken by other clients")
def no_connection_left(stage: Stage) -> str:
    worker, *_ = start_runs(stage, "csv_history", "coingecko")
    with stage.outage(), ExitStack() as connections:
        working = stage.children(worker)
        for process in working:  # Otherwise it would take the freed connections first.
            process.suspend()
        stage.scalar(f"SELECT count(pg_terminate_backend(pid, 1000)) FROM {SESSIONS}")
        taken = _take_connections(stage.postgres.url, connections)
        stage.mark_fault()
        for process in working:
            process.resume()
        until(lambda: "slice_abandoned" in worker.log.read_text(), what="a worker abandoned its run")
    stage.settle()
    return f"{taken} connections taken until a worker abandoned its run; {_summary(stage)}"


@fault("repeated deadlocks with another writer")
def deadlocks(stage: Stage) -> str:
    """Lock the quotes first and then the checkpoints. A page locks them in the opposite order."""
    stage.servers.postgres.run_sql(f"ALTER DATABASE {DATABASE} SET deadlock_timeout = '200ms'")
    start_runs(stage, "csv_history", "coingecko")
    stage.mark_fault()
    for _ in range(8):
        with stage.engine.execution_options(isolation_level="READ COMMITTED").begin() as rival:
            rival.execute(text("SET LOCAL deadlock_timeout = '10s'"))  # So Postgres aborts the page's transaction.
            rival.execute(text("LOCK TABLE quotes IN EXCLUSIVE MODE"))
            until(lambda: _waits_for_table(stage) or not stage.unfinished(), what="a page waits for the quotes")
            rival.execute(text("SELECT FROM checkpoints FOR UPDATE"))
    stage.settle()
    count = until(lambda: stage.scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
    return f"{count} deadlocks; {_summary(stage)}"


@fault("a table locked for longer than every timeout")
def locked(stage: Stage) -> str:
    worker, *_ = start_runs(stage, "csv_history", "coingecko")
    stage.mark_fault()
    with stage.engine.execution_options(isolation_level="READ COMMITTED").begin() as rival:
        rival.execute(text("LOCK TABLE quotes IN EXCLUSIVE MODE"))
        until(lambda: worker.log.read_text().count("database_unavailable") >= 2, what="both runs wait")
        time.sleep(stage.times["TRANSACTION_TIMEOUT"])
    stage.settle()
    assert "lock_not_available" in worker.log.read_text()
    return f"both runs waited; {_summary(stage)}"


def _waits_for_table(stage: Stage) -> bool:
    return bool(stage.scalar("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation'"))


def _interrupt(stage: Stage, stop: Callable[[], None]) -> None:
    stage.mark_fault()
    with stage.outage():
        stop()
        stage.postgres.start()


def _has_progressed(stage: Stage) -> bool:
    """Return whether a page was committed after Postgres restarted, or every run has finished."""
    since = "committed_at > pg_postmaster_start_time()"
    return bool(stage.scalar(f"SELECT count(*) FROM pages WHERE {since}")) or not stage.unfinished()


def _seconds_until_503(url: str) -> float:
    """Request a URL of the API. Return the seconds until it reported that the database is unavailable."""
    started_at = time.monotonic()
    response = requests.get(url, timeout=REFUSES_WITHIN)
    seconds = time.monotonic() - started_at
    assert response.status_code == 503, f"{url}: {response.status_code} {response.text}"
    assert "Traceback" not in response.text
    if not url.endswith("/health"):
        assert response.headers["Content-Type"] == "application/problem+json"
        assert json.loads(response.text)["code"] == "database_unavailable"
    return seconds


def _all_have_heartbeats(stage: Stage) -> bool:
    query = "SELECT count(*) FROM heartbeats WHERE beaten_at > pg_postmaster_start_time()"
    return bool(stage.scalar(query) == 3)


def _assert_alive(stage: Stage, *processes: Process) -> None:
    ended = [process.role for process in processes if stage.has_ended(process)]
    assert not ended, f"ended: {ended}"


def _take_connections(url: str, stack: ExitStack) -> int:
    """Connect until Postgres refuses a connection. Return the number of connections."""
    for taken in range(1000):
        try:
            stack.enter_context(closing(psycopg2.connect(url)))
        except psycopg2.OperationalError:
            return taken
    raise AssertionError("Postgres never ran out of connections")


def _summary(stage: Stage) -> str:
    """Return the number of starts of each run."""
    runs = stage.rows("SELECT source, claims FROM runs ORDER BY source")
    return ", ".join(f"{run.source} in {run.claims} starts" for run in runs)
