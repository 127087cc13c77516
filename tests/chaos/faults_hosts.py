"""Cut one of two hosts off from Postgres, Redis or both: the other continues, and the first one recovers.

Each host is a network namespace (tests/chaos/hosts.py). A cut link drops packets and refuses nothing. Each host runs
the upstreams on its own loopback, so they are never cut. The reconciler's worker runs on neither host.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.chaos.faults_points import row_versions
from tests.chaos.hosts import Host, ReachablePostgres, hosts
from tests.chaos.invariants import Row
from tests.chaos.registry import fault
from tests.chaos.servers import UPSTREAMS
from tests.chaos.stage import Stage
from tests.processes import Process, until

RECOVERS_WITHIN = 60.0
"""Maximum seconds until a reconnected host works again."""

CONNECTIONS_LOST_AFTER = 30.0
"""Seconds until each side gives up on a silent connection. See store/engine.py and tasks/celery.py."""

REDIS_USED_WITHIN = 6.0
"""Maximum seconds between two packets from a worker to Redis."""

EXITS_WITHIN = 30.0

KNOWN = ("coinpaprika", "coingecko", "csv_history")

SLOW_SOURCE = """
import json, time
from datetime import timedelta
from sources.contract import Page, Source

def fetch(window, http):
    first = window.cursor["page"] if window.cursor and window.cursor["run"] == window.run else 0
    for number in range(first, 20):
        time.sleep(0.05)
        items = [{"source_asset_id": f"coin-{n}", "symbol": f"C{n}", "name": f"Coin {n}", "quote_currency": "USD",
                  "observed_at": "2026-01-01T00:00:00Z", "price": "1.5"} for n in range(number * 20, number * 20 + 20)]
        cursor = {"run": window.run, "page": number + 1}
        yield Page(json.dumps(items).encode(), "application/json", {"page": number}, window.now, cursor)

def parse(page):
    return json.loads(page.body)

source = Source(name=__name__, every=timedelta(days=300), fetch=fetch, parse=parse, normalize=dict)
"""

SLOW_SOURCES = tuple(f"slow_{number}" for number in range(4))
"""Together with KNOWN, these are more runs than both hosts can work on at once. Each takes more than a second."""

SLICE_END_EVENTS = ("run_ended", "run_waiting", "slice_ended", "slice_fenced", "slice_abandoned", "slice_timed_out")

LOCKING_QUERY = """
from sqlalchemy import text
from store.locks import Lock, take_lock
from tasks.runtime import database

with database.worker_engine().begin() as connection:
    take_lock(connection, Lock.DECISIONS)
    print("locked", flush=True)
    connection.execute(text("WITH waited AS MATERIALIZED (SELECT pg_sleep(0.5)) "
                            "SELECT repeat('x', 1000) FROM waited, generate_series(1, 20000)")).all()
"""

_expected_rows: dict[str, list[Row]] = {}


class TwoHosts:
    """The hosts a and b. Faults affect only a."""

    def __init__(self, stage: Stage, a: Host, b: Host):
        self.stage, self.a, self.b = stage, a, b

    def environ(self, host: Host) -> dict[str, str]:
        """Return the environment of a host's processes. Fault points are active on a only."""
        environ = {
            "DATABASE_URL": host.url("postgres", self.stage.postgres.url),
            "REDIS_URL": host.url("redis", self.stage.valkey.url),
        }
        return self.stage.environ | environ | ({} if host is self.a else {"KASPARRO_FAULTS": ""})

    def start_worker(self, host: Host) -> Process:
        process = host.start("worker", self.stage.folder / f"{host.namespace}.log", self.environ(host))
        self.stage.started.append(process)
        return process

    def start_upstreams(self, host: Host) -> None:
        """Start the recorded upstreams on the host's loopback, at the same URL as outside."""
        servers, log = self.stage.servers, self.stage.folder / f"{host.namespace}-upstreams.log"
        options = ("--port", str(urlsplit(servers.upstreams.url).port), "--seed", str(servers.seed))
        host.run(*UPSTREAMS, *options, log=log)
        until(lambda: "serves" in log.read_text(), within=30, what=f"the upstreams serve; see {log}")

    def cut(self, *links: str, worker: Process | None = None) -> None:
        """Cut links of a. worker: the one on a, which no longer counts as able to take runs."""
        self.stage.mark_fault()
        for link in links:
            self.a.links[link].cut()
        if worker:
            self.stage.started.remove(worker)

    def open_transactions(self) -> list[Any]:
        """Return the sessions of a that have an open transaction."""
        return self.stage.rows(
            """
            SELECT state, wait_event FROM pg_stat_activity
             WHERE client_addr = CAST(:near AS inet) AND xact_start IS NOT NULL
            """,
            near=str(self.a.links["postgres"].near),
        )


@contextmanager
def two_hosts(stage: Stage) -> Iterator[TwoHosts]:
    """Yield two hosts with links to one Postgres and one Valkey."""
    stage.add_sources(dict.fromkeys(SLOW_SOURCES, SLOW_SOURCE))
    with hosts(("a", "b"), ("postgres", "redis")) as (a, b):
        if not _expected_rows:
            stage.record_expected(*SLOW_SOURCES)
            _expected_rows.update({source: stage.expected_rows[source] for source in SLOW_SOURCES})
        stage.expected_rows |= _expected_rows
        ends = {link: [host.links[link].far for host in (a, b)] for link in a.links}
        stage.use_postgres(ReachablePostgres(stage.folder / "servers", ends["postgres"]))
        stage.broker.config_set("bind", " ".join(map(str, ("127.0.0.1", *ends["redis"]))))
        lab = TwoHosts(stage, a, b)
        for host in (a, b):
            lab.start_upstreams(host)
        yield lab


def cut_off(links: tuple[str, ...], seconds: float, stage: Stage) -> str:
    """Cut one of two working hosts off. The other one finishes all runs, including those requested later."""
    with two_hosts(stage) as lab:
        isolated, other = lab.start_worker(lab.a), lab.start_worker(lab.b)
        stage.until_ready(isolated, other, stage.start("control"))
        stage.request(*SLOW_SOURCES, *KNOWN)
        until(lambda: len(active_runs(isolated)) == len(active_runs(other)) == 2, what="both hosts are working")
        lab.cut(*links, worker=isolated)
        heal_at = time.monotonic() + seconds
        stage.settle()
        slowest = _request_until(stage, heal_at)
        assert active_runs(isolated) or seconds or links == ("redis",), "the host has not noticed yet"
        return f"runs requested meanwhile took up to {slowest:.1f} s; {_reconnect(lab, isolated, other)}"


def _request_until(stage: Stage, heal_at: float) -> float:
    """Request at least one run, one after another until `heal_at`. Return the seconds of the slowest run."""
    slowest = 0.0
    while not slowest or time.monotonic() < heal_at:
        requested_at = time.monotonic()
        [run] = stage.request("coinpaprika")
        until(partial(_has_ended, stage, run), what="the other host finished a run")
        slowest = max(slowest, time.monotonic() - requested_at)
    return slowest


def _reconnect(lab: TwoHosts, isolated: Process, other: Process) -> str:
    """Heal the links. The host must abandon its slices without writing anything, and then work again."""
    stage, before, stale = lab.stage, row_versions(lab.stage), len(active_runs(isolated))
    for link in lab.a.links.values():
        link.heal()
    healed_at = time.monotonic()
    until(lambda: not active_runs(isolated), within=RECOVERS_WITHIN, what="the reconnected host abandoned its slices")
    assert row_versions(stage) == before, "the reconnected host wrote something"
    other.kill()
    [run] = stage.request("coinpaprika")
    until(partial(_has_ended, stage, run), within=RECOVERS_WITHIN, what="the reconnected host works again")
    seconds = time.monotonic() - healed_at
    assert f'"run": "{run}"' in isolated.log.read_text(), "the reconnected host finished the run"
    assert seconds < RECOVERS_WITHIN, f"the reconnected host worked only after {seconds:.0f} s"
    return f"reconnected with {stale} slices in progress, it wrote nothing and worked again within {seconds:.1f} s"


@fault("a host cut off from Postgres during a page's transaction")
def cut_off_during_transaction(stage: Stage) -> str:
    """Cut off a host that then cannot abort its transaction. The server must end it and release its locks."""
    stage.environ |= {"LEASE": "10", "TRANSACTION_TIMEOUT": "3"}  # Long enough to observe the transaction.
    with two_hosts(stage) as lab:
        isolated = lab.start_worker(lab.a)
        stage.until_ready(isolated, stage.start("control"))
        stage.arm("after_merge", "SIGSTOP")
        stage.request(*KNOWN, *SLOW_SOURCES)
        stage.wait_until_reached("after_merge")
        frozen = stage.frozen_processes()
        lab.cut("postgres", worker=isolated)
        assert lab.open_transactions(), "a transaction is open"
        _resume(frozen)
        other = lab.start_worker(lab.b)
        until(lambda: not lab.open_transactions(), what="the server ended the transaction")
        seconds = stage.seconds_since_fault()
        assert seconds < stage.times["TRANSACTION_TIMEOUT"] + 1, f"the locks were held for {seconds:.1f} s"
        stage.settle()
        assert active_runs(isolated), "the host has not noticed yet"
        return f"its locks were released after {seconds:.1f} s, with a limit of 3 s; {_reconnect(lab, isolated, other)}"


@fault("response to a COMMIT lost together with its host")
def commit_response_lost(stage: Stage) -> str:
    """Commit a page, and prevent its host from ever receiving the response."""
    with two_hosts(stage) as lab:
        isolated = lab.start_worker(lab.a)
        stage.until_ready(isolated, stage.start("control"))
        stage.arm("before_commit", "SIGSTOP")
        [run] = stage.request("slow_0")
        stage.wait_until_reached("before_commit")
        frozen = stage.frozen_processes()
        assert not _pages(stage, run), "nothing is committed yet"
        lab.a.links["postgres"].drop_responses()
        lab.cut(worker=isolated)
        _resume(frozen)
        until(lambda: _pages(stage, run) == 1, what="the page was committed")
        stage.request(*SLOW_SOURCES, *KNOWN)
        other = lab.start_worker(lab.b)
        stage.settle()
        assert stage.run(run).claims == 2, "another start continued after the page"
        assert str(run) in active_runs(isolated), "the host has not noticed yet"
        return f"another worker continued after the page; {_reconnect(lab, isolated, other)}"


@fault("SIGTERM to a worker whose host is cut off from Redis")
def sigterm_while_cut_off(stage: Stage) -> str:
    """Expect the worker to exit as usual, although it cannot reach Redis."""
    with two_hosts(stage) as lab:
        isolated, other = lab.start_worker(lab.a), lab.start_worker(lab.b)
        stage.until_ready(isolated, other, stage.start("control"))
        stage.request(*SLOW_SOURCES)
        until(lambda: active_runs(isolated), what="the host is working")
        lab.cut("redis", worker=isolated)
        _request_until(stage, time.monotonic() + REDIS_USED_WITHIN)
        signaled_at = time.monotonic()
        os.kill(isolated.pid, signal.SIGTERM)
        isolated.wait(EXITS_WITHIN)
        seconds = time.monotonic() - signaled_at
        stage.settle()
        return f"the worker exited after {seconds:.1f} s"


@fault("a host that vanishes while it receives a result, holding the lock for new listings")
def vanished_while_receiving(stage: Stage) -> str:
    """Expect a TCP timeout to end the session, since Postgres has no timeout for a session that is sending."""
    with two_hosts(stage) as lab:
        stage.until_ready(lab.start_worker(lab.b))
        stage.web()  # Start the API now, since that takes seconds.
        log = stage.folder / "vanished.log"
        lab.a.run("env", *_assignments(lab.environ(lab.a)), sys.executable, "-c", LOCKING_QUERY, log=log)
        until(lambda: "locked" in log.read_text(), what=f"the lock was taken; see {log}")
        lab.cut("postgres")
        until(
            lambda: any(row.wait_event == "ClientWrite" for row in lab.open_transactions()),
            what="the server is sending",
        )
        stage.request(*KNOWN, *SLOW_SOURCES)
        until(lambda: not lab.open_transactions(), what="the server ended the session")
        seconds = stage.seconds_since_fault()
        stage.start("control")  # Not earlier, since the reconciler would end the session.
        stage.settle()
        return f"the lock was released after {seconds:.1f} s"


def _resume(frozen: list[psutil.Process]) -> None:
    for process in frozen:
        process.resume()


def active_runs(worker: Process) -> set[str]:
    """Return the runs that a worker is working on, according to its log."""
    runs: set[str] = set()
    for line in worker.log.read_text().splitlines():
        entry: dict[str, Any] = {}
        with suppress(ValueError):  # A banner, or an incomplete line.
            entry = json.loads(line)
        if entry.get("event") == "slice_started":
            runs.add(entry["run"])
        elif entry.get("event") in SLICE_END_EVENTS:
            runs.discard(entry.get("run", ""))
        elif "raised unexpected" in entry.get("event", ""):
            runs.discard(entry["data"]["id"])
    return runs


def _has_ended(stage: Stage, run: uuid.UUID) -> bool:
    return stage.run(run).finished_at is not None


def _pages(stage: Stage, run: uuid.UUID) -> int:
    return int(stage.scalar("SELECT count(*) FROM pages WHERE run = :run", run=run))


def _assignments(environ: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environ.items()]


for _links in (("postgres",), ("redis",), ("postgres", "redis")):
    _name = f"a host cut off from {' and '.join(map(str.title, _links))}"
    fault(f"{_name} for longer than the lease")(partial(cut_off, _links, 0))
    fault(f"{_name} until its connections are given up")(partial(cut_off, _links, CONNECTIONS_LOST_AFTER))
