"""Set Postgres back: fail over to a standby that lacks chosen commits, or restore an earlier copy of the data."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import requests
from sqlalchemy import text

from tests.chaos.data_copies import DataCopy
from tests.chaos.faults_workers import start_runs
from tests.chaos.registry import fault
from tests.chaos.runner import KNOWN
from tests.chaos.servers import TOKEN
from tests.chaos.stage import Stage
from tests.processes import until
from tests.standby import Failover

SETTLES_WITHIN = 60.0
"""Seconds. A failover takes longer than the short limits of the suite, so runs wait several times."""

RANDOM_CUTS = 3
HELD_LEASE = "30"
"""LEASE while a fault holds a page for the time of a failover."""

PATIENT = {
    "TRANSACTION_TIMEOUT": "20",
    "LEASE": "60",
    "TASK_SOFT_LIMIT": "80",
    "TASK_HARD_LIMIT": "90",
    "VISIBILITY_TIMEOUT": "200",
}
"""With these settings, a page that was held for the time of a failover is tried again by the same slice."""

OPEN_SET_BACKS = "SELECT count(*) FROM anomalies WHERE kind = 'set_back' AND over_at IS NULL"
FAILED_OVER = "the database moved from timeline 1 to 2, as in a failover"


@fault("failover to a standby that lacks only the listings of the page in progress")
def listings_lost(stage: Stage) -> str:
    """Let another source take the ids of the lost listings before the page continues."""
    stage.environ |= PATIENT
    failover = _start(stage)
    stage.arm("after_copy", "SIGSTOP")
    with stage.engine.execution_options(isolation_level="READ COMMITTED").begin() as rival:
        rival.execute(text("LOCK TABLE listings IN SHARE MODE"))
        stage.request("csv_history")
        until(partial(_waits_for_lock, stage), what="the page's listings wait for the lock")
        position = failover.position()
    stage.wait_until_reached("after_copy")
    lost = _count(stage, "listings")
    assert lost, "the page has new listings"
    assert _count(stage, "pages") == 0
    _fail_over(stage, failover, position)
    assert _count(stage, "listings") == 0
    stage.request("coinpaprika")
    until(partial(_count, stage, "pages"), what="the other source loaded a page")
    stage.resume()
    until(lambda: stage.log_entries("listings_lost"), what="the slice noticed that its listings are lost")
    return f"{lost} listings lost; {_finish(stage, FAILED_OVER)}"


@fault("failover to a standby that lacks only a page")
def page_lost(stage: Stage) -> str:
    stage.environ["LEASE"] = HELD_LEASE
    failover = _start(stage)
    _hold(stage, "after_commit", "csv_history")
    _hold(stage, "before_commit")
    position, before = failover.position(), _count(stage, "pages")
    _hold(stage, "after_commit")
    assert _count(stage, "pages") == before + 1
    _fail_over(stage, failover, position)
    assert _count(stage, "pages") == before
    stage.resume()
    return _finish(stage, FAILED_OVER)


@fault("failover to a standby that lacks only a decision about assets")
def decision_lost(stage: Stage) -> str:
    """Check that a client's ETag of the lost state is never valid again."""
    failover = _start(stage)
    stage.request(*KNOWN)
    stage.settle()
    position = failover.position()
    lost, kept = [row.slug for row in stage.rows("SELECT slug FROM assets WHERE merged_into IS NULL LIMIT 2")]
    stage.api("POST", f"/assets/{lost}/merge", into=kept, reason="fault suite")
    etag = _get(stage, "/assets").headers["ETag"]
    assert _get(stage, "/assets", etag).status_code == 304
    _fail_over(stage, failover, position)
    assert not stage.rows("SELECT FROM decisions WHERE reason = 'fault suite'")
    assert _get(stage, "/assets", etag).status_code == 200
    return f"its ETag is no longer valid; {_finish(stage, FAILED_OVER)}"


@fault("failover to a standby that lacks only a slot")
def slot_lost(stage: Stage) -> str:
    failover = _start(stage)
    stage.request("coinpaprika")
    stage.settle()
    stage.environ |= {f"{source.upper()}_EVERY": "86400" for source in KNOWN}
    position = failover.position()
    worker = next(process for process in stage.started if process.role == "worker")
    worker.kill()
    stage.start("beat")
    before = until(partial(_slots, stage), what="beat requested the slots")
    _fail_over(stage, failover, position)
    stage.start("worker")
    until(lambda: len(_slots(stage)) == len(before), within=30, what="beat requested the slots again")
    assert [slot for slot, _ in _slots(stage)] == [slot for slot, _ in before]
    assert not {run for _, run in _slots(stage)} & {run for _, run in before}
    stage.stop_beat()
    return f"{len(before)} slots got their runs again; {_finish(stage, FAILED_OVER)}"


@fault("failover to a standby that lacks only requested runs")
def runs_lost(stage: Stage) -> str:
    failover = _start(stage)
    stage.request("coinpaprika")
    stage.settle()
    next(process for process in stage.started if process.role == "worker").kill()
    position = failover.position()
    lost = stage.request("csv_history", "coingecko")
    _fail_over(stage, failover, position)
    stage.start("worker")
    until(lambda: len(stage.log_entries("run_lost")) == len(lost), within=30, what="the lost runs are named")
    assert {entry["run"] for entry in stage.log_entries("run_lost")} == set(map(str, lost))
    return f"{len(lost)} lost runs named; {_finish(stage, FAILED_OVER)}"


def random_cut(number: int, stage: Stage) -> str:
    """Fail over during runs of all sources, to a random position since their start."""
    chance = random.Random(f"{stage.servers.seed} {number}")
    stage.environ["CSV_BLOCK_BYTES"] = "2048"
    failover = _start(stage)
    start, pages = failover.position(), chance.randint(1, 60)
    stage.request(*KNOWN)
    until(lambda: _count(stage, "pages") >= pages, what=f"{pages} pages")
    position = failover.position_between(start, chance.random())
    before = _count(stage, "pages")
    _fail_over(stage, failover, position)
    return f"{before - _count(stage, 'pages')} of {before} pages lost; {_finish(stage, FAILED_OVER)}"


for _number in range(1, RANDOM_CUTS + 1):
    fault(f"failover to a standby that lacks everything after a random position, {_number}")(
        partial(random_cut, _number)
    )


@fault("Postgres restored from an earlier copy of its data folder, on the same timeline")
def copy_restored(stage: Stage) -> str:
    start_runs(stage, "csv_history", "coingecko")
    _await_sweep(stage, 1)
    copy = DataCopy(stage.servers.postgres)
    copy.take()
    before = _count(stage, "pages")
    _await_sweep(stage, 3)
    lost = until(lambda: _count(stage, "pages") - before, what="further pages")
    with stage.set_back():
        copy.restore()
    return f"at least {lost} pages lost; {_finish(stage)}"


def _start(stage: Stage) -> Failover:
    """Start a worker and control on a database that can fail over, and wait for a sweep, which begins its history."""
    failover = stage.use_failover()
    stage.until_ready(stage.start("worker"), stage.start("control"))
    _await_sweep(stage, 1)
    return failover


def _await_sweep(stage: Stage, number: int) -> None:
    until(
        lambda: stage.rows("SELECT FROM timelines WHERE cardinality(sweeps) >= :number", number=number),
        what=f"{number} sweeps",
    )


def _hold(stage: Stage, point: str, *sources: str) -> None:
    """Freeze the process that reaches the point next. Request runs of these sources, or continue the frozen process."""
    stage.arm(point, "SIGSTOP")
    stage.request(*sources) if sources else stage.resume()
    stage.wait_until_reached(point)


def _fail_over(stage: Stage, failover: Failover, position: str) -> None:
    with stage.set_back():
        failover.fail_over(position)


def _count(stage: Stage, table: str) -> int:
    return int(stage.scalar(f"SELECT count(*) FROM {table}"))


def _waits_for_lock(stage: Stage) -> bool:
    return bool(stage.scalar("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'listings'::regclass"))


def _slots(stage: Stage) -> list[tuple[Any, Any]]:
    """Return the slots and their runs, or an empty list unless each source has one."""
    rows = stage.rows("SELECT scheduled_for, id FROM runs WHERE scheduled_for IS NOT NULL ORDER BY source")
    return [(row.scheduled_for, row.id) for row in rows] if len(rows) == len(KNOWN) else []


def _get(stage: Stage, path: str, etag: str = "") -> requests.Response:
    headers = {"Authorization": f"Bearer {TOKEN}", "If-None-Match": etag}
    return requests.get(stage.web().url + path, headers=headers, timeout=30)


def _finish(stage: Stage, reason: str | None = None) -> str:
    """Let the due runs follow. Check that the set-back is reported once everywhere, and is over after those runs."""
    until(lambda: stage.log_entries("database_set_back"), within=30, what="the set-back is in the log")
    stage.settle(within=SETTLES_WITHIN)
    detail = stage.api("GET", "/health")["checks"]["database"].get("detail", "")
    assert stage.scalar(OPEN_SET_BACKS) == 0 or "It was set back" in detail, f"/health says {detail!r}"
    stage.request(*KNOWN)
    stage.settle(within=SETTLES_WITHIN)
    until(lambda: stage.scalar(OPEN_SET_BACKS) == 0, what="the set-back is over")
    assert stage.api("GET", "/health")["checks"]["database"]["status"] == "ok"
    reasons = [entry["reason"] for entry in stage.log_entries("database_set_back")]
    assert len(reasons) == 1, reasons
    assert reasons[0] == reason or reason is None, reasons
    anomalies = stage.rows("SELECT source, count(*) FROM anomalies WHERE kind = 'set_back' GROUP BY source")
    assert anomalies, "no anomaly names a source"
    assert {row.count for row in anomalies} == {1}, anomalies
    return "reported once, and repaired by the next runs"
