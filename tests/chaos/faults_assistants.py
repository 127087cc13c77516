"""Several workers on one run of files, each of them killed and frozen while the others go on."""

from __future__ import annotations

from functools import partial

from tasks.runtime.fault_points import Point
from tests.chaos.faults_points import let_go_on, written
from tests.chaos.stage import Stage, fault
from tests.processes import until

SHARED = {"RUN_WORKERS": "4", "CSV_BLOCK_BYTES": "2048", "CSV_RANGE_BYTES": "8192"}

KILLED_AT: tuple[Point, ...] = ("before_lease", "after_fetch", "after_copy", "before_commit", "after_commit")
FROZEN_AT: tuple[Point, ...] = ("before_lease", "after_copy", "before_commit")

TIMES = 5


def shared_run(stage: Stage) -> None:
    """A run of the files, with two workers' processes at it."""
    stage.environ = {**stage.environ, **SHARED}
    stage.until_ready(*[stage.start(role) for role in ("control", "worker", "worker")])
    stage.request("csv_history")
    until(
        lambda: stage.one("SELECT count(*) FROM checkpoints WHERE lease_run IS NOT NULL") > 1,
        what="several work on the run",
    )


def killed_at(point: Point, stage: Stage) -> str:
    """Whoever comes to the point, the slice itself or an assistant of it."""
    shared_run(stage)
    for _ in range(TIMES):
        stage.arm(point, "SIGKILL")
        stage.struck(point)
    stage.settle()
    return f"{TIMES} times; {_run(stage)}"


def frozen_at(point: Point, stage: Stage) -> str:
    shared_run(stage)
    for _ in range(2):
        stage.arm(point, "SIGSTOP")
        stage.struck(point)
    stage.settle()
    assert len(stage.stopped()) == 2, "both are frozen still"
    before = written(stage)
    let_go_on(stage)
    assert written(stage) == before, "what was frozen wrote something when it went on"
    return f"the others ended the run while two were frozen; {_run(stage)}; continued, they wrote nothing"


def _run(stage: Stage) -> str:
    [run] = stage.rows("""
        SELECT claims, (SELECT count(*) FROM pages WHERE run = id) AS pages,
               (SELECT count(DISTINCT partition) FROM pages WHERE run = id) AS partitions FROM runs
    """)
    return f"{run.pages} pages of {run.partitions} partitions in {run.claims} starts"


for _point in KILLED_AT:
    fault(f"SIGKILL {_point}, of one of several on a run")(partial(killed_at, _point))
for _point in FROZEN_AT:
    fault(f"SIGSTOP {_point}, past the lease, of two of several on a run")(partial(frozen_at, _point))
