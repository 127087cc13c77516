"""End a round: repair everything, request cancelled runs again, and clean up for the next round."""

from __future__ import annotations

from functools import partial

from tests.chaos.runner import KNOWN
from tests.chaos.stage import Stage
from tests.processes import Process, until

WORKERS = 2
STOPS_WITHIN = 20.0
RECOVERED_WITHIN = 75.0
"""Seconds: up to 60 until workers consume messages again after a Redis fault, and 15 for the runs."""


def revive(stage: Stage) -> None:
    """Start missing workers and a missing reconciler. Ignore processes that have received SIGTERM."""
    for process in [process for process in stage.started if stage.has_ended(process)]:
        process.kill()
        stage.started.remove(process)
    for role, count in {"worker": WORKERS, "control": 1}.items():
        for _ in range(count - len(staying(stage, role))):
            stage.start(role)


def staying(stage: Stage, role: str) -> list[Process]:
    """Return the living processes of a role that have not received SIGTERM."""
    processes = [process for process in stage.started if process.role == role and process not in stage.stopping]
    return [process for process in processes if not stage.has_ended(process)]


def heal(stage: Stage) -> None:
    """Disarm fault points, start missing processes, and resume the sources."""
    stage.disarm()
    revive(stage)
    for source in KNOWN:  # A set-back may have brought a pause back.
        stage.api("POST", f"/sources/{source}/resume")


def frozen_workers(stage: Stage) -> list[Process]:
    """Return the workers that have at least one frozen process."""
    frozen = {process.pid for process in stage.frozen_processes()}
    workers = staying(stage, "worker")
    return [worker for worker in workers if frozen & {worker.pid, *(child.pid for child in stage.children(worker))}]


def request_until_complete(stage: Stage) -> None:
    """Wait for all runs, and request another one for each source whose runs were all cancelled."""
    while True:
        stage.settle(within=RECOVERED_WITHIN)
        complete = {run.source for run in stage.rows("SELECT source FROM runs WHERE status <> 'cancelled'")}
        if complete >= set(KNOWN):
            return
        stage.request(*sorted(set(KNOWN) - complete))


def await_stopping(stage: Stage) -> None:
    """Wait until every process that received SIGTERM has exited."""
    for process in stage.stopping:
        until(partial(stage.has_ended, process), within=STOPS_WITHIN, what=f"the worker stopped; see {process.log}")
    stage.stopping.clear()


def reset_stage(stage: Stage, *, restart: bool) -> None:
    """Delete the data of the round. restart: end its processes, too."""
    stage.servers.set_clock(0)
    with stage.watch.suspended():
        if restart:
            stage.kill()
            stage.stopping.clear()
            stage.servers.reset()
        else:
            stage.clear()
