"""The end of a round: what was hurt is healed, what was cancelled asked for again; the next one finds nothing of it."""

from __future__ import annotations

from functools import partial

from tests.chaos.perform import KNOWN
from tests.chaos.stage import Stage
from tests.processes import Process, until

WORKERS = 2
GRACE = 20.0
RECOVERED_WITHIN = 75.0
"""Seconds: 60 in which consuming must have resumed after whatever befell Redis, and then the runs themselves."""


def revive(stage: Stage) -> None:
    """As many workers as there should be, and one reconciler; none of them frozen or told to stop."""
    for process in [process for process in stage.started if stage.has_ended(process)]:
        process.kill()
        stage.started.remove(process)
    for role, count in {"worker": WORKERS, "control": 1}.items():
        for _ in range(count - len(staying(stage, role))):
            stage.start(role)


def staying(stage: Stage, role: str) -> list[Process]:
    """The processes of a role that live, and were not told to stop."""
    return [it for it in stage.started if it.role == role and it not in stage.leaving and not stage.has_ended(it)]


def heal(stage: Stage, paused: set[str]) -> None:
    stage.disarm()
    revive(stage)
    for source in paused:
        stage.api("POST", f"/sources/{source}/resume")


def with_frozen_parts(stage: Stage) -> list[Process]:
    frozen = {process.pid for process in stage.stopped()}
    return [it for it in staying(stage, "worker") if frozen & {it.pid, *(child.pid for child in stage.children(it))}]


def ask_until_whole(stage: Stage) -> None:
    """Every source has a run that was not cancelled; those that were told to stop have stopped."""
    while True:
        stage.settle(within=RECOVERED_WITHIN)
        whole = {run.source for run in stage.rows("SELECT source FROM runs WHERE status <> 'cancelled'")}
        if whole >= set(KNOWN):
            return
        stage.request(*sorted(set(KNOWN) - whole))


def leave(stage: Stage) -> None:
    """Those that were told to stop have stopped, within their grace."""
    for process in stage.leaving:
        until(partial(stage.has_ended, process), within=GRACE, what=f"it stopped when it was told; see {process.log}")
    stage.leaving.clear()


def begin_anew(stage: Stage, *, afresh: bool) -> None:
    """Nothing is left of the round; nor are its processes, where something was broken."""
    with stage.watch.looking_away():
        if afresh:
            stage.kill()
            stage.leaving.clear()
            stage.servers.fresh()
        else:
            stage.clear()
