"""Redis emptied, full, frozen, cut off, killed and gone: each while runs are under way and others are queued."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import requests

from tests.chaos.invariants import Row
from tests.chaos.stage import Stage, fault
from tests.processes import until
from tests.proxy import Proxy

PARTS = ("worker", "control", "beat")
AGAIN_WITHIN = 60
ANSWERED_WITHIN = 3
LATE_AFTER = 18
"""Seconds after which /health must say that a part is down: three sweeps of a second, and 15."""

LONG, SHORT = "long", ("short_1", "short_2", "short_3", "short_4", "short_5", "short_6")
PAGES = {LONG: 40} | dict.fromkeys(SHORT, 6)
ASKED_FOR_MEANWHILE = "late"

CODE = '''
"""A source of the fault suite's own: {pages} pages, each of which takes $PACE seconds."""

import os
import time

from tests.upstreams import canned, item

source = canned(
    *([item({first} + page)] for page in range({pages})),
    name="{name}",
    before=lambda _: time.sleep(float(os.environ.get("PACE", 0))),
)
'''

_undisturbed: dict[str, list[Row]] = {}


@fault("Redis emptied with FLUSHALL")
def emptied(stage: Stage) -> str:
    busy(stage)
    stage.hurt()
    stage.broker.flushall()
    return recovered(stage)


@fault("Redis restarted without persistence")
def forgetful(stage: Stage) -> str:
    @contextmanager
    def restart() -> Iterator[None]:
        stage.valkey.kill()
        shutil.rmtree(stage.valkey.data)
        yield
        stage.valkey.start()

    return trouble(stage, restart())


@fault("Redis killed, and started again after 3 s")
def killed(stage: Stage) -> str:
    @contextmanager
    def away() -> Iterator[None]:
        stage.valkey.kill()
        yield
        time.sleep(3)
        stage.valkey.start()

    return trouble(stage, away())


@fault("Redis out of reach for two minutes")
def gone(stage: Stage) -> str:
    """Longer than what Celery waits between two tries to connect."""

    @contextmanager
    def refuse(proxy: Proxy) -> Iterator[None]:
        proxy.refuse()
        yield
        time.sleep(123)
        proxy.heal()

    return through_proxy(stage, refuse)


@fault("connections to Redis half-open for 25 s")
def half_open(stage: Stage) -> str:
    """Every packet is swallowed, and nobody is told."""

    @contextmanager
    def stall(proxy: Proxy) -> Iterator[None]:
        proxy.stall()
        yield
        time.sleep(25)
        proxy.heal()

    return through_proxy(stage, stall)


@fault("connections to Redis reset, and a second later half-closed")
def broken_off(stage: Stage) -> str:
    @contextmanager
    def break_off(proxy: Proxy) -> Iterator[None]:
        proxy.reset()
        yield
        time.sleep(1)
        proxy.half_close()

    return through_proxy(stage, break_off)


@fault("Redis frozen for 25 s")
def frozen(stage: Stage) -> str:
    @contextmanager
    def freeze() -> Iterator[None]:
        with frozen_redis(stage):
            yield
            time.sleep(25)

    return trouble(stage, freeze())


def _refusing(stage: Stage, refuse: str, comply: str) -> str:
    @contextmanager
    def refusing() -> Iterator[None]:
        stage.broker.execute_command(*refuse.split())
        yield
        time.sleep(10)
        stage.broker.execute_command(*comply.split())

    return trouble(stage, refusing())


for _why, *_commands in (
    ("full", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ("without its replicas", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ("a read-only replica", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
):
    fault(f"Redis refuses to write for 10 s: {_why}")(partial(_refusing, refuse=_commands[0], comply=_commands[1]))


@fault("a worker's connection to Redis half-open, everybody else's fine")
def deaf(stage: Stage) -> str:
    """It looks alive: only that it consumes nothing tells, and /health must say so, and take it back."""
    with Proxy(stage.valkey.url) as proxy:
        stage.until_ready(stage.start("worker", REDIS_URL=proxy.url), stage.start("control"))
        until(lambda: part(stage, "worker") == "ok", what="/health says that the worker is ok")
        with stage.outage():
            proxy.stall()
            until(lambda: part(stage, "worker") == "down", within=LATE_AFTER + 5, what="/health says that it is down")
            assert part(stage, "broker") == part(stage, "control") == "ok"
            assert (age := last_seen(stage, "worker")) >= LATE_AFTER, f"/metrics says {age} s"
            stage.request("coingecko")
            proxy.heal()
        stage.hurt()
        until(lambda: part(stage, "worker") == "ok", within=AGAIN_WITHIN, what="/health says that it is ok again")
        again = stage.age_of_hurt()
        stage.settle()
    return f"/health said so within {LATE_AFTER + 5} s, and ok again after {again:.1f} s"


@fault("Redis frozen for 32 s, in which all slices of a worker end")
def not_acknowledged(stage: Stage) -> str:
    """Nothing acknowledges their messages in time: as long as those count as in hand, the worker takes no others."""
    prepare(stage)
    # Beyond what the outage and Celery's next try to connect take: a slice interrupted for its length ends its process.
    stage.environ |= {"TASK_SOFT_LIMIT": "70", "TASK_HARD_LIMIT": "72", "VISIBILITY_TIMEOUT": "150"}
    worker = stage.start("worker")
    stage.until_ready(worker, stage.start("control"))
    for source in SHORT[:2]:
        stage.arm("before_acknowledgement", "SIGSTOP")
        stage.request(source)
        stage.struck("before_acknowledgement")
    with stage.outage(), frozen_redis(stage):
        for child in stage.stopped():
            if child.pid != stage.valkey.pid:
                child.resume()
        time.sleep(32)
    stage.hurt()
    stage.request(*SHORT[2:4])
    until(lambda: len(running(stage)) == 2, within=AGAIN_WITHIN, what="both slots work")
    again = stage.age_of_hurt()
    stage.settle(within=60)
    return f"both slots worked again after {again:.1f} s"


def trouble(stage: Stage, hurting: AbstractContextManager[None]) -> str:
    """What there is from beginning to end; runs are asked for in it, and the time to recovery begins with its end."""
    busy(stage)
    with stage.outage():
        with hurting:
            began = time.monotonic()
            stage.request(ASKED_FOR_MEANWHILE)
            answered = time.monotonic() - began
            assert answered < ANSWERED_WITHIN, f"POST /runs took {answered:.1f} s"
        stage.hurt()
    return f"POST /runs answered in {answered:.1f} s; {recovered(stage)}"


def through_proxy(stage: Stage, hurting: Callable[[Proxy], AbstractContextManager[None]]) -> str:
    with Proxy(stage.valkey.url) as proxy:
        stage.environ["REDIS_URL"] = proxy.url
        return trouble(stage, hurting(proxy))


def busy(stage: Stage) -> None:
    """Every part of the service; one slot has a run that is good for 12 s, the other one short ones, which wait."""
    prepare(stage)
    stage.until_ready(stage.start("worker"), stage.start("control"))
    stage.start("beat", EXTRA_SOURCES="")  # it would ask for runs of these faults' sources, too
    stage.request(LONG, *SHORT)
    until(lambda: stage.rows("SELECT FROM heartbeats WHERE part = 'beat'"), what="beat has ticked")
    until(lambda: len(running(stage)) == 2, what="two runs are under way")
    assert {run.status for run in stage.unfinished()} == {"running", "queued"}


def prepare(stage: Stage) -> None:
    """The sources of these faults, slow from here on; what their data shall be is learnt by the first fault."""
    names = (LONG, *SHORT, ASKED_FOR_MEANWHILE)
    modules = {
        name: CODE.format(name=name, first=number, pages=PAGES.get(name, 1)) for number, name in enumerate(names)
    }
    stage.add_sources(modules)
    if not _undisturbed:
        stage.expect_undisturbed(*modules)
        _undisturbed.update({name: stage.undisturbed[name] for name in modules})
    stage.undisturbed |= _undisturbed
    stage.environ["PACE"] = "0.3"


def running(stage: Stage) -> list[Any]:
    """The runs that a worker has in hand and that have committed a page."""
    return stage.rows("SELECT id FROM runs WHERE status = 'running' AND id IN (SELECT run FROM pages)")


def recovered(stage: Stage) -> str:
    """Each part has worked since the hurt, by what it wrote, within a minute; /health says so; the runs have ended."""
    since = stage.one("SELECT clock_timestamp()")
    again: dict[str, float] = {}
    # Not by a page: the worker's would come without Redis, too.
    worked = """
        SELECT part FROM heartbeats WHERE beaten_at > :since UNION SELECT 'worker' FROM runs WHERE claimed_at > :since
    """

    def all_parts() -> bool:
        for row in stage.rows(worked, since=since):
            again.setdefault(row.part, stage.age_of_hurt())
        return len(again) == len(PARTS)

    until(all_parts, within=AGAIN_WITHIN, what=f"all parts worked again; only {again}")
    left = AGAIN_WITHIN - stage.age_of_hurt()
    until(lambda: {part(stage, name) for name in ("broker", *PARTS)} == {"ok"}, within=left, what="/health says so")
    stage.settle(within=90)
    return "again after " + ", ".join(f"{again[name]:.1f} s ({name})" for name in PARTS)


def part(stage: Stage, name: str) -> str:
    """What /health says of a part of the service."""
    return str(stage.api("GET", "/health")["checks"][name]["status"])


def last_seen(stage: Stage, name: str) -> float:
    """How many seconds ago, by /metrics."""
    metric = f'kasparro_heartbeat_age_seconds{{part="{name}"}}'
    [line] = [line for line in scrape(stage).splitlines() if line.startswith(metric)]
    return float(line.split()[-1])


def scrape(stage: Stage) -> str:
    return requests.get(f"{stage.web().url}/metrics", timeout=10).text


@contextmanager
def frozen_redis(stage: Stage) -> Iterator[None]:
    assert stage.valkey.pid
    os.kill(stage.valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(stage.valkey.pid, signal.SIGCONT)
