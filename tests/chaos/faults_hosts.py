"""Two hosts, one of them cut off from Postgres, from Redis, from both: the other carries on, and it comes back.

Each host is a network namespace (tests/chaos/hosts.py): packets to it and from it vanish, nothing is refused. The hosts
have the upstreams on their own loopback, so those are never cut. The reconciler's worker lives on neither of them.
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

from tests.chaos.faults_points import written
from tests.chaos.hosts import Host, ReachablePostgres, hosts
from tests.chaos.invariants import Row
from tests.chaos.servers import UPSTREAMS
from tests.chaos.stage import Stage, fault
from tests.processes import Process, until

BACK_WITHIN = 60.0
"""Seconds after which a host that is reached again must work again."""

CONNECTIONS_LIVE = 30.0
"""Seconds after which each side gives up a connection that carries nothing; see store/engine.py, tasks/celery.py."""

LINK_IS_MISSED = 6.0
"""Seconds after which a worker has something to tell Redis."""

ENDS_WITHIN = 30.0

KNOWN = ("coinpaprika", "coingecko", "csv_history")

SLOW = """
import json, time
from datetime import timedelta
from sources.contract import Page, Source

def fetch(window, http):
    first = window.cursor["page"] if window.cursor and window.cursor["run"] == window.run else 0
    for number in range(first, 20):
        time.sleep(0.05)
        items = [{"source_asset_id": f"coin-{it}", "symbol": f"C{it}", "name": f"Coin {it}", "quote_currency": "USD",
                  "observed_at": "2026-01-01T00:00:00Z", "price": "1.5"} for it in range(number * 20, number * 20 + 20)]
        cursor = {"run": window.run, "page": number + 1}
        yield Page(json.dumps(items).encode(), "application/json", {"page": number}, window.now, cursor)

def parse(page):
    return json.loads(page.body)

source = Source(name=__name__, every=timedelta(days=300), fetch=fetch, parse=parse, normalize=dict)
"""

SLOW_SOURCES = tuple(f"slow_{number}" for number in range(4))
"""With KNOWN more than both hosts can have in hand; each a run of more than a second."""

ENDINGS = ("run_ended", "run_waiting", "slice_ended", "slice_fenced", "slice_abandoned", "slice_timed_out")

ANSWERED = """
from sqlalchemy import text
from tasks.identity import decisions
from tasks.runtime import database

with database.worker_engine().begin() as connection:
    connection.execute(text(f"SELECT pg_advisory_xact_lock({decisions._RESOLVE_LOCK})"))
    print("locked", flush=True)
    connection.execute(text("WITH waited AS MATERIALIZED (SELECT pg_sleep(0.5)) "
                            "SELECT repeat('x', 1000) FROM waited, generate_series(1, 20000)")).all()
"""

_undisturbed: dict[str, list[Row]] = {}


class TwoHosts:
    """The hosts a and b, and what happens on them. It is a that gets hurt."""

    def __init__(self, stage: Stage, a: Host, b: Host):
        self.stage, self.a, self.b = stage, a, b

    def environ(self, host: Host) -> dict[str, str]:
        """What the stage's processes see, as seen from a host; only a's come to kill points."""
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
        """On the host's loopback, at the same URL as outside."""
        servers, log = self.stage.servers, self.stage.folder / f"{host.namespace}-replay.log"
        where = ("--port", str(urlsplit(servers.replay.url).port), "--seed", str(servers.seed))
        host.run(*UPSTREAMS, *where, log=log)
        until(lambda: "serves" in log.read_text(), within=30, what=f"the upstreams answer; see {log}")

    def cut(self, *links: str, worker: Process | None = None) -> None:
        """worker: the one on a; from now on it is none that could take a run."""
        self.stage.hurt()
        for link in links:
            self.a.links[link].cut()
        if worker:
            self.stage.started.remove(worker)

    def in_transaction(self) -> list[Any]:
        """The sessions of a that hold a transaction open."""
        return self.stage.rows(
            """
            SELECT state, wait_event FROM pg_stat_activity
             WHERE client_addr = CAST(:near AS inet) AND xact_start IS NOT NULL
            """,
            near=str(self.a.links["postgres"].near),
        )


@contextmanager
def two_hosts(stage: Stage) -> Iterator[TwoHosts]:
    """Hosts that reach the stage's servers, a Postgres and a Valkey that are one for both."""
    stage.add_sources(dict.fromkeys(SLOW_SOURCES, SLOW))
    with hosts(("a", "b"), ("postgres", "redis")) as (a, b):
        if not _undisturbed:
            stage.expect_undisturbed(*SLOW_SOURCES)
            _undisturbed.update({source: stage.undisturbed[source] for source in SLOW_SOURCES})
        stage.undisturbed |= _undisturbed
        ends = {link: [host.links[link].far for host in (a, b)] for link in a.links}
        stage.use_postgres(ReachablePostgres(stage.folder / "servers", ends["postgres"]))
        stage.broker.config_set("bind", " ".join(map(str, ("127.0.0.1", *ends["redis"]))))
        lab = TwoHosts(stage, a, b)
        for host in (a, b):
            lab.start_upstreams(host)
        yield lab


def cut_off(links: tuple[str, ...], lasting: float, stage: Stage) -> str:
    """Both are at work and more is queued; the other one ends it all, and what is asked for meanwhile."""
    with two_hosts(stage) as lab:
        lost, other = lab.start_worker(lab.a), lab.start_worker(lab.b)
        stage.until_ready(lost, other, stage.start("control"))
        stage.request(*SLOW_SOURCES, *KNOWN)
        until(lambda: len(in_hand(lost)) == len(in_hand(other)) == 2, what="both hosts are at work")
        lab.cut(*links, worker=lost)
        heal_at = time.monotonic() + lasting
        stage.settle()
        longest = _carries_on(stage, heal_at)
        assert in_hand(lost) or lasting or links == ("redis",), "it does not know yet"
        return f"runs asked for meanwhile took up to {longest:.1f} s; {_comes_back(lab, lost, other)}"


def _carries_on(stage: Stage, heal_at: float) -> float:
    """Runs are asked for one after the other until it is time to heal; gives the longest that one took."""
    longest = 0.0
    while not longest or time.monotonic() < heal_at:
        asked_at = time.monotonic()
        [run] = stage.request("coinpaprika")
        until(partial(_has_ended, stage, run), what="the other host carries on")
        longest = max(longest, time.monotonic() - asked_at)
    return longest


def _comes_back(lab: TwoHosts, lost: Process, other: Process) -> str:
    """Reached again, the host gives up what it had in hand without a trace, and works on by itself."""
    stage, before, stale = lab.stage, written(lab.stage), len(in_hand(lost))
    for link in lab.a.links.values():
        link.heal()
    healed_at = time.monotonic()
    until(lambda: not in_hand(lost), within=BACK_WITHIN, what="it gave up what it had in hand")
    assert written(stage) == before, "the host that was cut off wrote something when it was reached again"
    other.kill()
    [run] = stage.request("coinpaprika")
    until(partial(_has_ended, stage, run), within=BACK_WITHIN, what="the host that was cut off works again")
    back = time.monotonic() - healed_at
    assert f'"run": "{run}"' in lost.log.read_text(), "nobody else was there"
    assert back < BACK_WITHIN, f"it came back only after {back:.0f} s"
    return f"healed, it had {stale} slices in hand, wrote nothing, and worked again within {back:.1f} s"


@fault("a host cut off from Postgres in the middle of a page's transaction")
def cut_off_in_a_transaction(stage: Stage) -> str:
    """It can no more say that it gives up: the server has to see that by itself, and free its locks."""
    stage.environ |= {"LEASE": "10", "TRANSACTION_TIMEOUT": "3"}  # time to look at the transaction
    with two_hosts(stage) as lab:
        lost = lab.start_worker(lab.a)
        stage.until_ready(lost, stage.start("control"))
        stage.arm("after_merge", "SIGSTOP")
        stage.request(*KNOWN, *SLOW_SOURCES)
        stage.struck("after_merge")
        frozen = stage.stopped()
        lab.cut("postgres", worker=lost)
        assert lab.in_transaction(), "it is in the middle of one"
        _let_go_on(frozen)
        other = lab.start_worker(lab.b)
        until(lambda: not lab.in_transaction(), what="the server gave up the transaction")
        freed = stage.age_of_hurt()
        assert freed < stage.times["TRANSACTION_TIMEOUT"] + 1, f"its locks were held for {freed:.1f} s"
        stage.settle()
        assert in_hand(lost), "it does not know yet"
        return f"its locks were free after {freed:.1f} s, of 3 allowed; {_comes_back(lab, lost, other)}"


@fault("the answer to a COMMIT lost, and its host with it")
def answer_to_a_commit_lost(stage: Stage) -> str:
    """The page is in, and the host that sent it never hears so."""
    with two_hosts(stage) as lab:
        lost = lab.start_worker(lab.a)
        stage.until_ready(lost, stage.start("control"))
        stage.arm("before_commit", "SIGSTOP")
        [run] = stage.request("slow_0")
        stage.struck("before_commit")
        frozen = stage.stopped()
        assert not _pages(stage, run), "nothing is committed yet"
        lab.a.links["postgres"].lose_answers()
        lab.cut(worker=lost)
        _let_go_on(frozen)
        until(lambda: _pages(stage, run) == 1, what="the page was committed")
        stage.request(*SLOW_SOURCES, *KNOWN)
        other = lab.start_worker(lab.b)
        stage.settle()
        assert stage.run(run).claims == 2, "another start went on behind the page"
        assert str(run) in in_hand(lost), "it does not know yet"
        return f"another went on behind the page; {_comes_back(lab, lost, other)}"


@fault("SIGTERM to a worker whose host is cut off from Redis")
def told_to_stop_while_cut_off(stage: Stage) -> str:
    """It ends as it always does; what Redis would have to be told for that, it need not be told."""
    with two_hosts(stage) as lab:
        lost, other = lab.start_worker(lab.a), lab.start_worker(lab.b)
        stage.until_ready(lost, other, stage.start("control"))
        stage.request(*SLOW_SOURCES)
        until(lambda: in_hand(lost), what="it is at work")
        lab.cut("redis", worker=lost)
        _carries_on(stage, time.monotonic() + LINK_IS_MISSED)
        told_at = time.monotonic()
        os.kill(lost.pid, signal.SIGTERM)
        lost.wait(ENDS_WITHIN)
        took = time.monotonic() - told_at
        stage.settle()
        return f"it ended after {took:.1f} s"


@fault("a host that vanishes while Postgres answers it, with the lock that new listings need")
def vanished_while_answered(stage: Stage) -> str:
    """No timeout of Postgres's own ends a session that is sending; its connection's must."""
    with two_hosts(stage) as lab:
        stage.until_ready(lab.start_worker(lab.b))
        stage.web()  # a start of seconds
        log = stage.folder / "vanished.log"
        lab.a.run("env", *_assignments(lab.environ(lab.a)), sys.executable, "-c", ANSWERED, log=log)
        until(lambda: "locked" in log.read_text(), what=f"the lock was taken; see {log}")
        lab.cut("postgres")
        until(lambda: any(row.wait_event == "ClientWrite" for row in lab.in_transaction()), what="it is being answered")
        stage.request(*KNOWN, *SLOW_SOURCES)
        until(lambda: not lab.in_transaction(), what="the server gave up the session")
        freed = stage.age_of_hurt()
        stage.start("control")  # not before: the reconciler would end the session, too
        stage.settle()
        return f"the lock was free after {freed:.1f} s"


def _let_go_on(frozen: list[psutil.Process]) -> None:
    for process in frozen:
        process.resume()


def in_hand(worker: Process) -> set[str]:
    """The runs that a worker works on, by what it logged."""
    runs: set[str] = set()
    for line in worker.log.read_text().splitlines():
        said: dict[str, Any] = {}
        with suppress(ValueError):  # a banner, or a line that is just being written
            said = json.loads(line)
        if said.get("event") == "slice_started":
            runs.add(said["run"])
        elif said.get("event") in ENDINGS:
            runs.discard(said.get("run", ""))
        elif "raised unexpected" in said.get("event", ""):
            runs.discard(said["data"]["id"])
    return runs


def _has_ended(stage: Stage, run: uuid.UUID) -> bool:
    return stage.run(run).finished_at is not None


def _pages(stage: Stage, run: uuid.UUID) -> int:
    return int(stage.one("SELECT count(*) FROM pages WHERE run = :run", run=run))


def _assignments(environ: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environ.items()]


for _links in (("postgres",), ("redis",), ("postgres", "redis")):
    _name = f"a host cut off from {' and '.join(map(str.title, _links))}"
    fault(f"{_name}, past the lease")(partial(cut_off, _links, 0))
    fault(f"{_name}, until its connections are given up")(partial(cut_off, _links, CONNECTIONS_LIVE))
