"""Whole workers killed, frozen and stopped, and the reconciler's own worker with them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

from tests.chaos.faults_points import let_go_on, written
from tests.chaos.pulse import Pulse
from tests.chaos.stage import Stage, fault
from tests.processes import Process, until

BLOCK = 2048
"""Bytes of a page of the files: a run of them has some 270, and takes seconds."""

KILLS = 12


def under_way(
    stage: Stage, *sources: str, roles: tuple[str, ...] = ("worker", "control"), block: int = BLOCK
) -> list[Process]:
    """Processes with a run of each source in hand, five pages in; the first of them is the worker."""
    stage.environ = {**stage.environ, "CSV_BLOCK_BYTES": str(block)}
    started = [stage.start(role) for role in roles]
    stage.request(*sources)
    until(lambda: stage.one("SELECT count(*) FROM pages") >= 5, what="five pages")
    return started


@fault("kill -9 of a whole worker")
def the_whole_worker_is_killed(stage: Stage) -> str:
    worker, _ = under_way(stage, "csv_history", "coingecko")
    stage.hurt()
    worker.kill()
    stage.start("worker")
    stage.settle()
    return f"another worker ended what was left; {_run_of(stage, 'csv_history')}"


@fault("kill -9 of all of a worker's processes, every second")
def killed_again_and_again(stage: Stage) -> str:
    """However often they are killed, each start commits pages: the runs get on, and are not poisoned."""
    stage.environ |= {"MAX_ATTEMPTS": "3"}
    worker, _ = under_way(stage, "csv_history", "coingecko", block=BLOCK // 2)
    for _ in range(KILLS):
        for child in until(partial(stage.children, worker)):
            child.kill()
        stage.hurt()
        time.sleep(1)
    stage.settle()
    return f"{KILLS} times; {_run_of(stage, 'csv_history')}"


@fault("a whole worker frozen past the lease, then continued")
def the_whole_worker_is_frozen(stage: Stage) -> str:
    """Its parent too, with all connections open: to Redis, and to Postgres in the middle of a page."""
    frozen, _ = under_way(stage, "csv_history", "coingecko")
    stage.hurt()
    frozen.signal(signal.SIGSTOP)
    stage.start("worker")
    stage.settle()
    before = written(stage)
    frozen.signal(signal.SIGCONT)
    let_go_on(stage)
    assert written(stage) == before, "the worker that was frozen wrote something when it went on"
    return f"another worker ended the runs meanwhile; {_run_of(stage, 'csv_history')}; continued, it wrote nothing"


@fault("SIGTERM to a worker in the middle of a run", short=True)
def told_to_stop(stage: Stage) -> str:
    return _stopped_cleanly(stage, lambda worker: os.kill(worker.pid, signal.SIGTERM))


@fault("SIGTERM to a worker and all its processes at once")
def told_to_stop_as_a_group(stage: Stage) -> str:
    return _stopped_cleanly(stage, lambda worker: worker.signal(signal.SIGTERM))


def _stopped_cleanly(stage: Stage, tell: Callable[[Process], None]) -> str:
    worker, _ = under_way(stage, "csv_history")
    stage.hurt()
    began = time.monotonic()
    tell(worker)
    worker.wait(stage.times["LEASE"])
    took = time.monotonic() - began
    left = [(run.status, run.attempts) for run in stage.unfinished()]
    assert left == [("queued", 0)], f"the run was to be put back, without an attempt counted: {left}"
    assert not stage.rows("SELECT FROM checkpoints WHERE lease_run IS NOT NULL"), "the lease was let go"
    stage.start("worker")
    stage.settle()
    return f"it ended after {took:.1f} s, the run put back; {_run_of(stage, 'csv_history')}"


@fault("two reconcilers at once, one of them killed, and a worker")
def two_reconcilers(stage: Stage) -> str:
    worker, control, _ = under_way(stage, "csv_history", "coingecko", roles=("worker", "control", "control"))
    with Pulse(lambda: stage.environ["REDIS_URL"], stage.times["SWEEP_EVERY"]):
        stage.hurt()
        worker.kill()
        control.kill()
        stage.start("worker")
        stage.settle()
    return f"the other one put the runs back once; {_run_of(stage, 'csv_history')}"


@fault("a healthy run of more than 30 slices")
def many_slices(stage: Stage) -> str:
    """Each start is an attempt until its page commits: they must not add up."""
    stage.environ |= {"TASK_SLICE": "0.001", "MAX_ATTEMPTS": "2"}
    stage.start("worker")
    stage.start("control")
    [run] = stage.request("csv_history")
    stage.settle()
    ended = stage.run(run)
    assert ended.error_code is None, f"{ended.error_code}: {ended.error_detail}"
    assert ended.claims > 30, f"only {ended.claims} slices"
    return f"not poisoned, with 2 attempts allowed: {_run_of(stage, 'csv_history')}"


def _run_of(stage: Stage, source: str) -> str:
    [run] = stage.rows(
        "SELECT claims, (SELECT count(*) FROM pages WHERE run = id) AS pages FROM runs WHERE source = :source",
        source=source,
    )
    return f"{source} {run.pages} pages in {run.claims} starts"
