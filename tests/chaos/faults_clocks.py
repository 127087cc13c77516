"""Set the clock of Postgres back and ahead, during runs and between them."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlencode

from tests.chaos.faults_workers import start_runs
from tests.chaos.history_file import COIN, HistoryFile
from tests.chaos.registry import NotRun, fault
from tests.chaos.stage import Stage
from tests.processes import until
from tests.proxy import Proxy
from tests.stepped_clock import NOT_INSTALLED

MINUTE, DAY = 60, 86_400
STEPS = {"-1 min": (-MINUTE,), "-1 day": (-DAY,), "+1 day and back": (DAY, 0)}
"""The offsets that the clock gets one after another, by the names of the faults."""

SOURCES = ("csv_history", "coingecko")
UPDATED = "SELECT coalesce(sum(updated), 0)::int FROM pages WHERE run = :run"
FARTHEST_WAIT = "SELECT max(next_attempt_at - service_time()) < interval '1 hour' FROM runs WHERE status = 'waiting'"


class Follower:
    """A client that polls /data for the quotes that are new since its last poll."""

    def __init__(self, stage: Stage):
        self._stage, self._since = stage, ""
        self._prices: dict[Any, str] = {}

    def poll(self) -> None:
        arguments = {"limit": "1000", "ingested_since": self._since}
        while True:
            query = urlencode({name: value for name, value in arguments.items() if value})
            page = self._stage.api("GET", f"/data?{query}")
            for quote in page["data"]:
                key = quote["source"], quote["source_asset_id"], quote["quote_currency"], quote["observed_at"]
                self._prices[key] = quote["price"]
            if not page["pagination"]["has_more"]:
                break
            arguments["cursor"] = page["pagination"]["next_cursor"]
        self._since = page["ingested_until"]

    def is_complete(self) -> bool:
        """Poll once more, and compare the quotes with those of a new client."""
        self.poll()
        new = Follower(self._stage)
        new.poll()
        return self._prices == new._prices


def during_runs(offsets: tuple[float, ...], stage: Stage) -> str:
    follower = Follower(stage)
    _set_clock(stage, 0)
    start_runs(stage, *SOURCES)
    for offset in offsets:
        follower.poll()
        _set_clock(stage, offset)
        until(partial(_has_progressed, stage, _pages(stage)), what="further pages")
    stage.settle()
    until(follower.is_complete, within=30, what="the follower has every quote")
    return f"{_reports(stage, offsets)}; the follower is complete"


def between_runs(offsets: tuple[float, ...], stage: Stage) -> str:
    """Correct every price of a file after each step. The corrections must win, and reach the follower."""
    file, follower = HistoryFile(stage), Follower(stage)
    _set_clock(stage, 0)
    stage.start("worker")
    stage.start("control")
    _run(stage, *SOURCES)
    for offset in offsets:
        follower.poll()
        _set_clock(stage, offset)
        _correct(stage, file.rewrite, file.records)
        _correct(stage, file.rewrite, file.records)
    _correct(stage, file.restore, file.records)
    until(follower.is_complete, within=30, what="the follower has every correction")
    return f"{_reports(stage, offsets)}; {2 * len(offsets) + 1} x {file.records} corrections reached the follower"


for _name, _offsets in STEPS.items():
    fault(f"the clock of Postgres set by {_name} during runs")(partial(during_runs, _offsets))
for _name, _offsets in STEPS.items():
    fault(f"the clock of Postgres set by {_name} between runs that correct prices")(partial(between_runs, _offsets))


@fault("the clock of Postgres a day ahead while a run begins to wait, then right again")
def waiting_run(stage: Stage) -> str:
    """The run must not wait for the day by which the clock was ahead."""
    _set_clock(stage, 0)
    with Proxy(stage.environ["COINGECKO_URL"]) as proxy:
        stage.start("control")
        stage.start("worker", COINGECKO_URL=proxy.url)
        _run(stage, "coinpaprika")
        _set_clock(stage, DAY)
        proxy.refuse()
        [run] = stage.request("coingecko")
        until(lambda: stage.run(run).status == "waiting", what="the run waits")
        _set_clock(stage, 0)
        until(lambda: stage.scalar(FARTHEST_WAIT) is not False, what="the run waits for no longer than it should")
        proxy.heal()
        stage.settle()
    return f"{stage.outcome.recovery:.1f} s until the run finished"


def _set_clock(stage: Stage, seconds: float) -> None:
    if stage.servers.stepped is None:
        raise NotRun(NOT_INSTALLED)
    stage.mark_fault()
    stage.servers.set_clock(seconds)


def _pages(stage: Stage) -> int:
    return int(stage.scalar("SELECT count(*) FROM pages"))


def _has_progressed(stage: Stage, pages: int) -> bool:
    return _pages(stage) > pages or not stage.unfinished()


def _run(stage: Stage, *sources: str) -> Any:
    """Request runs and wait until they have finished. Return the id of the first."""
    runs = stage.request(*sources)
    stage.settle()
    return runs[0]


def _correct(stage: Stage, change: Any, records: int) -> None:
    """Change every price of the file, and load it. Check that every correction was stored."""
    change()
    run = _run(stage, *SOURCES)
    updated = stage.scalar(UPDATED, run=run)
    assert updated == records, f"{updated} of {records} corrections of {COIN} were stored"


def _reports(stage: Stage, offsets: tuple[float, ...]) -> str:
    """Check that the step back is in the log once. Return the time to recovery in words."""
    steps = [entry["step_seconds"] for entry in stage.log_entries("clock_set_back")]
    assert len(steps) == 1, f"steps in the log: {steps}"
    return f"one step back of {steps[0]:.0f} s in the log"
