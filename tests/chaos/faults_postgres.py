"""Postgres gone, restarted, frozen, refusing or in the way, while workers load what is then compared."""

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

import psutil
import psycopg2
import requests
from sqlalchemy import text

from devstack.postgres import DATABASE
from devstack.process import family
from tests.chaos.faults_workers import under_way
from tests.chaos.stage import Stage, fault
from tests.processes import ROOT, Process, until
from tests.wire import Wire

LAST_OF_A_PAGE = b"INSERT INTO pages"
SESSIONS = "pg_stat_activity WHERE application_name IN ('kasparro-worker', 'kasparro-web')"
AWAY = 60.0
"""Seconds of an outage that every process must live through."""

FROZEN = 8.0
ANSWERS_WITHIN = 6.0
"""Seconds after which the API says that the database does not answer, however it does that."""


@fault("every session killed by pg_terminate_backend, again and again")
def sessions_killed(stage: Stage) -> str:
    under_way(stage, "csv_history", "coingecko")
    killed = 0
    for _ in range(20):
        stage.hurt()
        killed += stage.one(f"SELECT count(pg_terminate_backend(pid)) FROM {SESSIONS}")
        time.sleep(0.2)
    stage.settle()
    return f"{killed} sessions; {_claims(stage)}"


@fault("the answer to a page's COMMIT swallowed, again and again", short=True)
def commits_unanswered(stage: Stage) -> str:
    """The page is in, and its worker is told that the connection broke."""
    stage.environ |= {"TRANSACTION_TIMEOUT": "4", "LEASE": "12"}  # so that a busy machine has the time to try again
    with Wire(stage.environ["DATABASE_URL"]) as wire:
        stage.start("control")
        worker = stage.start("worker", DATABASE_URL=wire.url)
        [run] = stage.request("csv_history")
        for _ in range(10):
            wire.cut(1, since=LAST_OF_A_PAGE, answered=True)
            until(lambda: wire.struck, what="a page is committed")
            stage.hurt()
        wire.heal()
        stage.settle()
    seen = worker.log.read_text().count("commit_response_lost")
    assert seen == 10, f"of 10 lost answers {seen} were known to have been commits"
    assert stage.run(run).claims == 1, "the run was given back"
    return "10 times; each was known to be in, in the same slice"


@fault("a connection gone silent in the middle of a COPY, three times")
def silent_in_a_copy(stage: Stage) -> str:
    """Its client hears nothing, and Postgres waits for more rows, whatever its timeouts say."""
    with Wire(stage.environ["DATABASE_URL"]) as wire:
        control = stage.start("control")
        stage.start("worker", DATABASE_URL=wire.url)
        stage.request("csv_history")
        for number in range(1, 4):
            wire.cut(1, since=b"COPY quotes", silent=True)
            until(lambda: wire.struck, what="a page is copied")
            stage.hurt()
            until(partial(_has_ended_sessions, control, number), what="the reconciler ended the session")
            wire.heal()
        stage.settle()
    return f"the reconciler ended the session each time; {_claims(stage)}"


def _has_ended_sessions(control: Process, number: int) -> bool:
    return control.log.read_text().count("session_terminated") >= number


@fault("the connection cut at every statement of a slice, answered or not, for a moment and for long")
def cut_at_every_statement(stage: Stage) -> str:
    """In a process of its own, with the slices in it; asserts the invariants after each cut."""
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/tasks/pipeline/test_cut_connections.py", "-k", "any_statement", "-s"],
        cwd=ROOT,
        env={**os.environ, "EVERY_STATEMENT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    cuts = [int(line.split()[1]) for line in told.stdout.splitlines() if line.startswith("cuts: ")]
    return f"{sum(cuts)} cuts at {max(cuts)} statements"


@fault("Postgres restarted, three times")
def restarted(stage: Stage) -> str:
    under_way(stage, "csv_history", "coingecko")
    for _ in range(3):
        _take_away(stage, stage.postgres.stop)
        until(lambda: _pages_after(stage))
    stage.settle()
    return _claims(stage)


@fault("kill -9 of Postgres, three times")
def killed(stage: Stage) -> str:
    under_way(stage, "csv_history", "coingecko")
    for _ in range(3):
        _take_away(stage, stage.postgres.kill)
        until(lambda: _pages_after(stage))
    stage.settle()
    return _claims(stage)


@fault("Postgres away for a minute, with all that asks it")
def away(stage: Stage) -> str:
    """Worker, control, beat and the API: none of them ends, and all come back by themselves."""
    started = under_way(stage, "csv_history", "coingecko", roles=("worker", "control", "beat"))
    web = stage.web()
    stage.hurt()
    with stage.outage():
        stage.postgres.stop()
        ends_at = time.monotonic() + AWAY
        slowest = max(_refusal(web.url + path) for path in ("/data", "/runs", "/health"))
        time.sleep(ends_at - time.monotonic())
        stage.hurt()
        stage.postgres.start()
    stage.settle()
    until(lambda: _all_beat(stage), within=20, what="worker, control and beat have shown themselves again")
    _assert_alive(stage, *started, web)
    stage.request("coinpaprika")
    stage.settle()
    return f"the API said 503 within {slowest:.1f} s; {_claims(stage)}"


@fault("Postgres frozen with SIGSTOP for longer than the lease")
def frozen(stage: Stage) -> str:
    """It takes connections, and answers nothing."""
    under_way(stage, "csv_history", "coingecko")
    web = stage.web()
    with stage.outage():
        stage.hurt()
        _signal_postgres(stage, signal.SIGSTOP)
        try:
            slowest = _refusal(web.url + "/health")
            time.sleep(FROZEN)
        finally:
            _signal_postgres(stage, signal.SIGCONT)
    stage.settle()
    return f"/health said 503 within {slowest:.1f} s; {_claims(stage)}"


@fault("Postgres refuses to write, as a standby does, then becomes the one that writes")
def standby(stage: Stage) -> str:
    """Nobody ends the sessions that refuse: a worker must leave them by itself."""
    worker, *_ = under_way(stage, "csv_history", "coingecko")
    run_sql, change = stage.servers.postgres.run_sql, f"ALTER DATABASE {DATABASE} SET default_transaction_read_only"
    stage.hurt()
    with stage.outage():
        run_sql(f"{change} = on")
        stage.one(f"SELECT count(pg_terminate_backend(pid, 1000)) FROM {SESSIONS}")
        until(lambda: "read_only_sql_transaction" in worker.log.read_text(), what="a worker met the standby")
        time.sleep(3)
        run_sql(f"{change} = off")
    stage.settle()
    return _claims(stage)


@fault("every connection that Postgres has taken by others")
def no_connection_left(stage: Stage) -> str:
    worker, *_ = under_way(stage, "csv_history", "coingecko")
    with stage.outage(), ExitStack() as others:
        working = stage.children(worker)
        for process in working:  # or it would be the first to take what is freed
            process.suspend()
        stage.one(f"SELECT count(pg_terminate_backend(pid, 1000)) FROM {SESSIONS}")
        taken = _take_connections(stage.postgres.url, others)
        stage.hurt()
        for process in working:
            process.resume()
        until(lambda: "slice_abandoned" in worker.log.read_text(), what="a worker gave its run up")
    stage.settle()
    return f"{taken} taken until a worker gave its run up; {_claims(stage)}"


@fault("deadlocks with another writer, again and again")
def deadlocks(stage: Stage) -> str:
    """It takes the quotes first and the checkpoints then, the other way round than a page does."""
    stage.servers.postgres.run_sql(f"ALTER DATABASE {DATABASE} SET deadlock_timeout = '200ms'")
    under_way(stage, "csv_history", "coingecko")
    stage.hurt()
    for _ in range(8):
        with stage.engine.execution_options(isolation_level="READ COMMITTED").begin() as rival:
            rival.execute(text("SET LOCAL deadlock_timeout = '10s'"))  # it is the page that is ended
            rival.execute(text("LOCK TABLE quotes IN EXCLUSIVE MODE"))
            until(lambda: _waits_for_table(stage) or not stage.unfinished(), what="a page waits for the quotes")
            rival.execute(text("SELECT FROM checkpoints FOR UPDATE"))
    stage.settle()
    met = until(lambda: stage.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
    return f"{met} deadlocks; {_claims(stage)}"


@fault("a table locked for longer than every timeout")
def locked(stage: Stage) -> str:
    worker, *_ = under_way(stage, "csv_history", "coingecko")
    stage.hurt()
    with stage.engine.execution_options(isolation_level="READ COMMITTED").begin() as rival:
        rival.execute(text("LOCK TABLE quotes IN EXCLUSIVE MODE"))
        until(lambda: worker.log.read_text().count("database_unavailable") >= 2, what="both runs wait")
        time.sleep(stage.times["TRANSACTION_TIMEOUT"])
    stage.settle()
    assert "lock_not_available" in worker.log.read_text()
    return f"both runs waited; {_claims(stage)}"


def _waits_for_table(stage: Stage) -> bool:
    return bool(stage.one("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation'"))


def _take_away(stage: Stage, how: Callable[[], None]) -> None:
    stage.hurt()
    with stage.outage():
        how()
        stage.postgres.start()


def _pages_after(stage: Stage) -> bool:
    """Whether a page was committed since Postgres is back, or none is to come."""
    since = "committed_at > pg_postmaster_start_time()"
    return bool(stage.one(f"SELECT count(*) FROM pages WHERE {since}")) or not stage.unfinished()


def _refusal(url: str) -> float:
    """Seconds until the API said that the database does not answer, in its own words."""
    began = time.monotonic()
    answer = requests.get(url, timeout=ANSWERS_WITHIN)
    took = time.monotonic() - began
    assert answer.status_code == 503, f"{url}: {answer.status_code} {answer.text}"
    assert "Traceback" not in answer.text
    if not url.endswith("/health"):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert json.loads(answer.text)["code"] == "database_unavailable"
    return took


def _all_beat(stage: Stage) -> bool:
    beats = "SELECT count(*) FROM heartbeats WHERE beaten_at > pg_postmaster_start_time()"
    return bool(stage.one(beats) == 3)


def _assert_alive(stage: Stage, *processes: Process) -> None:
    ended = [process.role for process in processes if stage.has_ended(process)]
    assert not ended, f"ended: {ended}"


def _signal_postgres(stage: Stage, signum: int) -> None:
    assert stage.postgres.own_pid
    for process in family(stage.postgres.own_pid):
        try:
            process.send_signal(signum)
        except psutil.NoSuchProcess:  # a backend that has just ended
            continue


def _take_connections(url: str, kept: ExitStack) -> int:
    """Connect until Postgres has none left; how many that were."""
    for taken in range(1000):
        try:
            kept.enter_context(closing(psycopg2.connect(url)))
        except psycopg2.OperationalError:
            return taken
    raise AssertionError("Postgres never ran out of connections")


def _claims(stage: Stage) -> str:
    """How often the runs were started."""
    starts = stage.rows("SELECT source, claims FROM runs ORDER BY source")
    return ", ".join(f"{run.source} in {run.claims} starts" for run in starts)
