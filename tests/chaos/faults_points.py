"""At every fault point of a slice, kill a process, and freeze one for longer than its lease."""

from __future__ import annotations

from functools import partial
from typing import get_args

import psutil

from tasks.runtime.fault_points import Point
from tests.chaos.registry import fault
from tests.chaos.service import resume_processes
from tests.chaos.stage import Stage
from tests.processes import until

ONCE_PER_SLICE = ("before_lease", "between_slices", "before_acknowledgement")
"""Points reached once per slice. With one page per slice, a run reaches them after its first page, too."""

SHORT_FORM_KILLS = ("after_copy",)

SOURCES = ("coingecko", "csv_history")

TABLES = ("quotes", "latest_quotes", "pages", "raw_bodies", "rejects", "listings", "assets", "checkpoints", "runs")


def killed_at(point: Point, stage: Stage) -> str:
    """Kill the process of each of two runs at the point, while it works on its second page."""
    processes = _hold_after_first_pages(stage, point, workers=1)
    for process in processes:
        stage.arm(point, "SIGKILL")
        process.resume()
        stage.wait_until_reached(point)
    stage.settle()
    return f"killed twice on the second page; {_summary(stage)}"


def frozen_at(point: Point, stage: Stage) -> str:
    """Freeze the process of each of two runs at the point. Others finish the runs, and frozen ones write nothing."""
    processes = _hold_after_first_pages(stage, point, workers=2)  # The second worker takes over.
    for process in processes:
        stage.arm(point, "SIGSTOP")
        process.resume()
        stage.wait_until_reached(point)
    seconds = stage.times["LEASE"] + stage.times["SWEEP_EVERY"] + 8
    stage.settle(within=seconds)
    assert len(stage.frozen_processes()) == len(processes), "both are still frozen"
    before = row_versions(stage)
    resume_frozen(stage)
    assert row_versions(stage) == before, "a frozen process wrote something after SIGCONT"
    return f"others finished both runs meanwhile; {_summary(stage)}; after SIGCONT the frozen ones wrote nothing"


def row_versions(stage: Stage) -> dict[str, object]:
    """Return a hash of each table, over the transactions and positions of its rows. Any write changes the hash."""
    return {
        table: stage.scalar(f"SELECT md5(string_agg(xmin::text || ctid::text, ',' ORDER BY ctid)) FROM {table}")
        for table in TABLES
    }


def resume_frozen(stage: Stage) -> None:
    """Continue the frozen processes, and wait until they have acknowledged every message."""
    stage.reconcile_sender.stop()  # Otherwise its canary messages would be in progress.
    resume_processes(stage.frozen_processes())
    until(partial(_is_idle, stage), within=20, what="every message was acknowledged")


def _hold_after_first_pages(stage: Stage, point: Point, *, workers: int) -> list[psutil.Process]:
    """Start two runs, and freeze each briefly after its first page, long before its lease expires."""
    stage.environ |= {"TASK_SLICE": "0.001"} if point in ONCE_PER_SLICE else {}
    stage.until_ready(*[stage.start(role) for role in ("control", *["worker"] * workers)])
    for number, source in enumerate(SOURCES, 1):
        stage.arm("after_commit", "SIGSTOP")
        stage.request(source)
        stage.wait_until_reached("after_commit")
        until(partial(_are_stopped, stage, number))
    return stage.frozen_processes()


def _are_stopped(stage: Stage, number: int) -> bool:
    return len(stage.frozen_processes()) == number


def _is_idle(stage: Stage) -> bool:
    return not stage.broker.exists("ingest", "unacked")


def _summary(stage: Stage) -> str:
    """Return the numbers of pages and starts of each run."""
    runs = stage.rows(
        "SELECT source, claims, (SELECT count(*) FROM pages WHERE run = id) AS pages FROM runs ORDER BY 1"
    )
    return ", ".join(f"{run.source} {run.pages} pages in {run.claims} starts" for run in runs)


for _point in get_args(Point):
    _is_short = _point in SHORT_FORM_KILLS
    fault(f"SIGKILL at {_point}", short=_is_short)(partial(killed_at, _point))
for _point in get_args(Point):
    fault(f"SIGSTOP at {_point} for longer than the lease", short=_point == "before_commit")(partial(frozen_at, _point))
