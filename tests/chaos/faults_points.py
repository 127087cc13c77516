"""Every named point of a slice: killed there with SIGKILL, and frozen there with SIGSTOP past the lease."""

from __future__ import annotations

from functools import partial
from typing import get_args

import psutil

from tasks.runtime.fault_points import Point
from tests.chaos.service import go_on
from tests.chaos.stage import Stage, fault
from tests.processes import until

BETWEEN = ("before_lease", "between_slices", "before_acknowledgement")
"""Points that a run comes to once a slice: there each page is a slice, so that they are met in the middle of a run."""

IN_SHORT_FORM = ("after_copy",)

SOURCES = ("coingecko", "csv_history")

WRITTEN = ("quotes", "latest_quotes", "pages", "raw_bodies", "rejects", "listings", "assets", "checkpoints", "runs")


def killed_at(point: Point, stage: Stage) -> str:
    """Two runs' processes, each killed at the point while it works on its second page."""
    held = _held_after_their_first_pages(stage, point, workers=1)
    for process in held:
        stage.arm(point, "SIGKILL")
        process.resume()
        stage.struck(point)
    stage.settle()
    return f"killed twice on the second page; {_claims(stage)}"


def frozen_at(point: Point, stage: Stage) -> str:
    """Two runs' processes, each frozen at the point: others end the runs, and they write nothing when they go on."""
    held = _held_after_their_first_pages(stage, point, workers=2)  # or nobody could take over
    for process in held:
        stage.arm(point, "SIGSTOP")
        process.resume()
        stage.struck(point)
    lease, sweep = stage.times["LEASE"], stage.times["SWEEP_EVERY"]
    stage.settle(within=lease + sweep + 8)
    assert len(stage.stopped()) == len(held), "both are frozen still"
    before = written(stage)
    let_go_on(stage)
    assert written(stage) == before, "what was frozen wrote something when it went on"
    return f"others ended both runs while they were frozen; {_claims(stage)}; continued, they wrote nothing"


def written(stage: Stage) -> dict[str, object]:
    """Tells a write to any row: by the transactions that made the rows, and by where they lie."""
    return {
        table: stage.one(f"SELECT md5(string_agg(xmin::text || ctid::text, ',' ORDER BY ctid)) FROM {table}")
        for table in WRITTEN
    }


def let_go_on(stage: Stage) -> None:
    """Let all that is frozen go on, and wait until it has nothing in hand any more."""
    stage.pulse.stop()  # or its canaries would be in the hands of the workers
    go_on(stage.stopped())
    until(partial(_is_idle, stage), within=20, what="every message was acknowledged")


def _held_after_their_first_pages(stage: Stage, point: Point, *, workers: int) -> list[psutil.Process]:
    """Both runs under way, each stopped for a moment right behind its first page: long before its lease ends."""
    stage.environ |= {"TASK_SLICE": "0.001"} if point in BETWEEN else {}
    stage.until_ready(*[stage.start(role) for role in ("control", *["worker"] * workers)])
    for number, source in enumerate(SOURCES, 1):
        stage.arm("after_commit", "SIGSTOP")
        stage.request(source)
        stage.struck("after_commit")
        until(partial(_are_stopped, stage, number))
    return stage.stopped()


def _are_stopped(stage: Stage, number: int) -> bool:
    return len(stage.stopped()) == number


def _is_idle(stage: Stage) -> bool:
    return not stage.broker.exists("ingest", "unacked")


def _claims(stage: Stage) -> str:
    """In how many slices each run was done."""
    claims = stage.rows(
        "SELECT source, claims, (SELECT count(*) FROM pages WHERE run = id) AS pages FROM runs ORDER BY 1"
    )
    return ", ".join(f"{row.source} {row.pages} pages in {row.claims} starts" for row in claims)


for _point in get_args(Point):
    _short = _point in IN_SHORT_FORM
    fault(f"SIGKILL {_point}", short=_short)(partial(killed_at, _point))
for _point in get_args(Point):
    fault(f"SIGSTOP {_point}, past the lease", short=_point == "before_commit")(partial(frozen_at, _point))
