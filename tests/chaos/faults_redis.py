"""Empty, fill, freeze, disconnect and kill Redis while some runs are running and others are queued."""

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
from tests.chaos.registry import fault
from tests.chaos.stage import Stage
from tests.processes import until
from tests.proxy import Proxy

COMPONENTS = ("worker", "control", "beat")
RECOVERS_WITHIN = 60
RESPONDS_WITHIN = 3
DOWN_AFTER = 18
"""Seconds after which /health must report a component as down: three sweeps of one second each, and 15."""

LONG, SHORT = "long", ("short_1", "short_2", "short_3", "short_4", "short_5", "short_6")
PAGES = {LONG: 40} | dict.fromkeys(SHORT, 6)
REQUESTED_DURING_FAULT = "late"

CODE = '''
"""A source of the fault suite: {pages} pages that take $PACE seconds each."""

import os
import time

from tests.upstreams import canned, item

source = canned(
    *([item({first} + page)] for page in range({pages})),
    name="{name}",
    before=lambda _: time.sleep(float(os.environ.get("PACE", 0))),
)
'''

_expected_rows: dict[str, list[Row]] = {}


@fault("Redis emptied with FLUSHALL")
def emptied(stage: Stage) -> str:
    start_runs(stage)
    stage.mark_fault()
    stage.broker.flushall()
    return await_recovery(stage)


@fault("Redis restarted without persistence")
def restarted_empty(stage: Stage) -> str:
    @contextmanager
    def restart() -> Iterator[None]:
        stage.valkey.kill()
        shutil.rmtree(stage.valkey.data)
        yield
        stage.valkey.start()

    return request_during(stage, restart())


@fault("Redis killed and started again after 3 s")
def killed(stage: Stage) -> str:
    @contextmanager
    def away() -> Iterator[None]:
        stage.valkey.kill()
        yield
        time.sleep(3)
        stage.valkey.start()

    return request_during(stage, away())


@fault("Redis unreachable for two minutes")
def unreachable(stage: Stage) -> str:
    """Make the outage longer than Celery's maximum wait between two connection attempts."""

    @contextmanager
    def refuse(proxy: Proxy) -> Iterator[None]:
        proxy.refuse()
        yield
        time.sleep(123)
        proxy.heal()

    return through_proxy(stage, refuse)


@fault("connections to Redis half-open for 25 s")
def half_open(stage: Stage) -> str:
    """Drop every packet without notifying either side."""

    @contextmanager
    def stall(proxy: Proxy) -> Iterator[None]:
        proxy.stall()
        yield
        time.sleep(25)
        proxy.heal()

    return through_proxy(stage, stall)


@fault("connections to Redis reset, then half-closed a second later")
def reset_and_half_closed(stage: Stage) -> str:
    @contextmanager
    def reset(proxy: Proxy) -> Iterator[None]:
        proxy.reset()
        yield
        time.sleep(1)
        proxy.half_close()

    return through_proxy(stage, reset)


@fault("Redis frozen for 25 s")
def frozen(stage: Stage) -> str:
    @contextmanager
    def freeze() -> Iterator[None]:
        with frozen_redis(stage):
            yield
            time.sleep(25)

    return request_during(stage, freeze())


def _refuse_writes(stage: Stage, refuse: str, accept: str) -> str:
    @contextmanager
    def refuse_writes() -> Iterator[None]:
        stage.broker.execute_command(*refuse.split())
        yield
        time.sleep(10)
        stage.broker.execute_command(*accept.split())

    return request_during(stage, refuse_writes())


for _reason, *_commands in (
    ("out of memory", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ("too few replicas", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ("a read-only replica", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
):
    fault(f"Redis refuses writes for 10 s: {_reason}")(
        partial(_refuse_writes, refuse=_commands[0], accept=_commands[1])
    )


@fault("one worker's connection to Redis half-open, all others intact")
def worker_half_open(stage: Stage) -> str:
    """Keep a worker alive that consumes no messages. /health must report it as down, and as ok after the recovery."""
    with Proxy(stage.valkey.url) as proxy:
        stage.until_ready(stage.start("worker", REDIS_URL=proxy.url), stage.start("control"))
        until(lambda: component_status(stage, "worker") == "ok", what="/health reports the worker as ok")
        with stage.outage():
            proxy.stall()
            until(
                lambda: component_status(stage, "worker") == "down",
                within=DOWN_AFTER + 5,
                what="/health reports it as down",
            )
            assert component_status(stage, "broker") == component_status(stage, "control") == "ok"
            assert (age := heartbeat_age(stage, "worker")) >= DOWN_AFTER, f"/metrics reports {age} s"
            stage.request("coingecko")
            proxy.heal()
        stage.mark_fault()
        until(
            lambda: component_status(stage, "worker") == "ok",
            within=RECOVERS_WITHIN,
            what="/health reports it as ok again",
        )
        seconds = stage.seconds_since_fault()
        stage.settle()
    return f"/health reported it as down within {DOWN_AFTER + 5} s, and as ok again after {seconds:.1f} s"


@fault("Redis frozen for 32 s while all slices of a worker finish")
def not_acknowledged(stage: Stage) -> str:
    """Delay the acknowledgement of messages. While they count as in progress, the worker takes no other messages."""
    add_slow_sources(stage)
    # Longer than the outage and Celery's next attempt to connect: a slice that hits its time limit ends its process.
    stage.environ |= {"TASK_SOFT_LIMIT": "70", "TASK_HARD_LIMIT": "72", "VISIBILITY_TIMEOUT": "150"}
    worker = stage.start("worker")
    stage.until_ready(worker, stage.start("control"))
    for source in SHORT[:2]:
        stage.arm("before_acknowledgement", "SIGSTOP")
        stage.request(source)
        stage.wait_until_reached("before_acknowledgement")
    with stage.outage(), frozen_redis(stage):
        for child in stage.frozen_processes():
            if child.pid != stage.valkey.pid:
                child.resume()
        time.sleep(32)
    stage.mark_fault()
    stage.request(*SHORT[2:4])
    until(lambda: len(running(stage)) == 2, within=RECOVERS_WITHIN, what="both slots work")
    seconds = stage.seconds_since_fault()
    stage.settle(within=60)
    return f"both slots worked again after {seconds:.1f} s"


def request_during(stage: Stage, outage: AbstractContextManager[None]) -> str:
    """Request a run during an outage. Measure the time to recovery from the end of the outage."""
    start_runs(stage)
    with stage.outage():
        with outage:
            started_at = time.monotonic()
            stage.request(REQUESTED_DURING_FAULT)
            seconds = time.monotonic() - started_at
            assert seconds < RESPONDS_WITHIN, f"POST /runs took {seconds:.1f} s"
        stage.mark_fault()
    return f"POST /runs took {seconds:.1f} s; {await_recovery(stage)}"


def through_proxy(stage: Stage, outage: Callable[[Proxy], AbstractContextManager[None]]) -> str:
    with Proxy(stage.valkey.url) as proxy:
        stage.environ["REDIS_URL"] = proxy.url
        return request_during(stage, outage(proxy))


def start_runs(stage: Stage) -> None:
    """Start every component. A run of 12 s occupies one worker slot, and short runs wait for the other slot."""
    add_slow_sources(stage)
    stage.until_ready(stage.start("worker"), stage.start("control"))
    stage.start("beat", EXTRA_SOURCES="")  # Otherwise beat would also request runs of these sources.
    stage.request(LONG, *SHORT)
    until(lambda: stage.rows("SELECT FROM heartbeats WHERE part = 'beat'"), what="beat has ticked")
    until(lambda: len(running(stage)) == 2, what="two runs are running")
    assert {run.status for run in stage.unfinished()} == {"running", "queued"}


def add_slow_sources(stage: Stage) -> None:
    """Add the sources of these faults, and slow them down. The first fault records their expected rows."""
    names = (LONG, *SHORT, REQUESTED_DURING_FAULT)
    modules = {
        name: CODE.format(name=name, first=number, pages=PAGES.get(name, 1)) for number, name in enumerate(names)
    }
    stage.add_sources(modules)
    if not _expected_rows:
        stage.record_expected(*modules)
        _expected_rows.update({name: stage.expected_rows[name] for name in modules})
    stage.expected_rows |= _expected_rows
    stage.environ["PACE"] = "0.3"


def running(stage: Stage) -> list[Any]:
    """Return the running runs that have committed a page."""
    return stage.rows("SELECT id FROM runs WHERE status = 'running' AND id IN (SELECT run FROM pages)")


def await_recovery(stage: Stage) -> str:
    """Wait until each component has worked again, /health reports ok and every run has finished. Return the times."""
    since = stage.scalar("SELECT clock_timestamp()")
    seconds: dict[str, float] = {}
    # A claim proves that the worker consumes messages. A page does not, since a slice commits pages without Redis.
    query = """
        SELECT part FROM heartbeats WHERE beaten_at > :since UNION SELECT 'worker' FROM runs WHERE claimed_at > :since
    """

    def all_have_worked() -> bool:
        for row in stage.rows(query, since=since):
            seconds.setdefault(row.part, stage.seconds_since_fault())
        return len(seconds) == len(COMPONENTS)

    until(all_have_worked, within=RECOVERS_WITHIN, what=f"all components worked again; only {seconds}")
    remaining = RECOVERS_WITHIN - stage.seconds_since_fault()
    until(
        lambda: {component_status(stage, name) for name in ("broker", *COMPONENTS)} == {"ok"},
        within=remaining,
        what="/health reports ok",
    )
    stage.settle(within=90)
    return "worked again after " + ", ".join(f"{seconds[name]:.1f} s ({name})" for name in COMPONENTS)


def component_status(stage: Stage, name: str) -> str:
    """Return the status of a component, as reported by /health."""
    return str(stage.api("GET", "/health")["checks"][name]["status"])


def heartbeat_age(stage: Stage, name: str) -> float:
    """Return the age of a component's heartbeat in seconds, as reported by /metrics."""
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
