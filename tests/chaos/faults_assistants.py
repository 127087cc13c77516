"""Kill or freeze one of several workers that share one run of files."""

from __future__ import annotations

from functools import partial

from tasks.runtime.fault_points import Point
from tests.chaos.faults_points import resume_frozen, row_versions
from tests.chaos.registry import fault
from tests.chaos.stage import Stage
from tests.processes import until

SHARED = {"RUN_WORKERS": "4", "CSV_BLOCK_BYTES": "2048", "CSV_RANGE_BYTES": "8192"}

KILLED_AT: tuple[Point, ...] = ("before_lease", "after_fetch", "after_copy", "before_commit", "after_commit")
FROZEN_AT: tuple[Point, ...] = ("before_lease", "after_copy", "before_commit")

KILLS = 5


def start_shared_run(stage: Stage) -> None:
    """Start a run of the files, shared by several child processes of two workers."""
    stage.environ = {**stage.environ, **SHARED}
    stage.until_ready(*[stage.start(role) for role in ("control", "worker", "worker")])
    stage.request("csv_history")
    until(
        lambda: stage.scalar("SELECT count(*) FROM checkpoints WHERE lease_run IS NOT NULL") > 1,
        what="several processes work on the run",
    )


def killed_at(point: Point, stage: Stage) -> str:
    """Kill the process that reaches the point. It may have claimed the run or assist it."""
    start_shared_run(stage)
    for _ in range(KILLS):
        stage.arm(point, "SIGKILL")
        stage.wait_until_reached(point)
    stage.settle()
    return f"killed {KILLS} times; {_summary(stage)}"


def frozen_at(point: Point, stage: Stage) -> str:
    start_shared_run(stage)
    for _ in range(2):
        stage.arm(point, "SIGSTOP")
        stage.wait_until_reached(point)
    stage.settle()
    assert len(stage.frozen_processes()) == 2, "both are still frozen"
    before = row_versions(stage)
    resume_frozen(stage)
    assert row_versions(stage) == before, "a frozen process wrote something after SIGCONT"
    return (
        f"the others finished the run while two were frozen; {_summary(stage)}; after SIGCONT those two wrote nothing"
    )


def _summary(stage: Stage) -> str:
    [run] = stage.rows("""
        SELECT claims, (SELECT count(*) FROM pages WHERE run = id) AS pages,
               (SELECT count(DISTINCT partition) FROM pages WHERE run = id) AS partitions FROM runs
    """)
    return f"{run.pages} pages of {run.partitions} partitions in {run.claims} starts"


for _point in KILLED_AT:
    fault(f"SIGKILL at {_point} to one of several workers on a run")(partial(killed_at, _point))
for _point in FROZEN_AT:
    fault(f"SIGSTOP at {_point} to two of several workers on a run, for longer than the lease")(
        partial(frozen_at, _point)
    )
