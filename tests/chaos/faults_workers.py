"""Kill, freeze and stop whole workers, and the reconciler's own worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

from tests.chaos.faults_points import resume_frozen, row_versions
from tests.chaos.reconcile_sender import ReconcileSender
from tests.chaos.registry import fault
from tests.chaos.stage import Stage
from tests.processes import Process, until

PAGE_BYTES = 2048
"""Bytes in a page of the files. A run then has about 270 pages and takes seconds."""

KILLS = 12


def start_runs(
    stage: Stage, *sources: str, roles: tuple[str, ...] = ("worker", "control"), page_bytes: int = PAGE_BYTES
) -> list[Process]:
    """Start processes and a run of each source, and wait for five pages. Return the processes, the worker first."""
    stage.environ = {**stage.environ, "CSV_BLOCK_BYTES": str(page_bytes)}
    started = [stage.start(role) for role in roles]
    stage.request(*sources)
    until(lambda: stage.scalar("SELECT count(*) FROM pages") >= 5, what="five pages")
    return started


@fault("kill -9 of a whole worker")
def whole_worker_killed(stage: Stage) -> str:
    worker, _ = start_runs(stage, "csv_history", "coingecko")
    stage.mark_fault()
    worker.kill()
    stage.start("worker")
    stage.settle()
    return f"another worker finished the runs; {_summary(stage, 'csv_history')}"


@fault("kill -9 of a worker's child processes every second")
def children_killed_repeatedly(stage: Stage) -> str:
    """Kill processes that have committed pages. The runs make progress, so they do not count as poisoned."""
    stage.environ |= {"MAX_ATTEMPTS": "3"}
    worker, _ = start_runs(stage, "csv_history", "coingecko", page_bytes=PAGE_BYTES // 2)
    for _ in range(KILLS):
        for child in until(partial(stage.children, worker)):
            child.kill()
        stage.mark_fault()
        time.sleep(1)
    stage.settle()
    return f"killed {KILLS} times; {_summary(stage, 'csv_history')}"


@fault("a whole worker frozen for longer than the lease, then continued")
def whole_worker_frozen(stage: Stage) -> str:
    """Freeze the main process, too, with open connections to Redis, and to Postgres in the middle of a page."""
    frozen, _ = start_runs(stage, "csv_history", "coingecko")
    stage.mark_fault()
    frozen.signal(signal.SIGSTOP)
    stage.start("worker")
    stage.settle()
    before = row_versions(stage)
    frozen.signal(signal.SIGCONT)
    resume_frozen(stage)
    assert row_versions(stage) == before, "the frozen worker wrote something after SIGCONT"
    return f"another worker finished the runs; {_summary(stage, 'csv_history')}; after SIGCONT it wrote nothing"


@fault("SIGTERM to a worker during a run", short=True)
def sigterm_to_main_process(stage: Stage) -> str:
    return _stop_cleanly(stage, lambda worker: os.kill(worker.pid, signal.SIGTERM))


@fault("SIGTERM to a worker and its child processes at once")
def sigterm_to_process_group(stage: Stage) -> str:
    return _stop_cleanly(stage, lambda worker: worker.signal(signal.SIGTERM))


def _stop_cleanly(stage: Stage, stop: Callable[[Process], None]) -> str:
    worker, _ = start_runs(stage, "csv_history")
    stage.mark_fault()
    started_at = time.monotonic()
    stop(worker)
    worker.wait(stage.times["LEASE"])
    seconds = time.monotonic() - started_at
    unfinished = [(run.status, run.attempts) for run in stage.unfinished()]
    assert unfinished == [("queued", 0)], f"expected a requeued run without a counted attempt: {unfinished}"
    assert not stage.rows("SELECT FROM checkpoints WHERE lease_run IS NOT NULL"), "the lease was released"
    stage.start("worker")
    stage.settle()
    return f"the worker exited after {seconds:.1f} s and requeued its run; {_summary(stage, 'csv_history')}"


@fault("two reconcilers at once: one of them killed, and a worker")
def two_reconcilers(stage: Stage) -> str:
    worker, control, _ = start_runs(stage, "csv_history", "coingecko", roles=("worker", "control", "control"))
    with ReconcileSender(lambda: stage.environ["REDIS_URL"], stage.times["SWEEP_EVERY"]):
        stage.mark_fault()
        worker.kill()
        control.kill()
        stage.start("worker")
        stage.settle()
    return f"the other reconciler requeued the runs once; {_summary(stage, 'csv_history')}"


@fault("a healthy run of more than 30 slices")
def many_slices(stage: Stage) -> str:
    """Run many slices. Each start counts as an attempt until a page commits, so the attempts must not add up."""
    stage.environ |= {"TASK_SLICE": "0.001", "MAX_ATTEMPTS": "2"}
    stage.start("worker")
    stage.start("control")
    [run] = stage.request("csv_history")
    stage.settle()
    finished = stage.run(run)
    assert finished.error_code is None, f"{finished.error_code}: {finished.error_detail}"
    assert finished.claims > 30, f"only {finished.claims} slices"
    return f"succeeded with 2 attempts allowed: {_summary(stage, 'csv_history')}"


def _summary(stage: Stage, source: str) -> str:
    [run] = stage.rows(
        "SELECT claims, (SELECT count(*) FROM pages WHERE run = id) AS pages FROM runs WHERE source = :source",
        source=source,
    )
    return f"{source} {run.pages} pages in {run.claims} starts"
