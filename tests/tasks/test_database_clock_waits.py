"""Test that no limit, slot or list is wrong after the database's clock was set, and that no wait becomes longer."""

from __future__ import annotations

from datetime import datetime

import pytest

from settings import get_settings
from sources.contract import CatchUp, Rate, TransientError
from tasks.runtime.service_clock import check_clock
from tasks.schedule import read_service_clock, request_due_runs
from tasks.upstream import rate_limits
from tasks.upstream.circuit_breaker import CircuitBreaker
from tasks.upstream.rate_limits import make_limiter
from tests.app.conftest import serve
from tests.stepped_clock import SteppedPostgres
from tests.tasks.conftest import Bench
from tests.tasks.timetable import HOUR, Timetable
from tests.upstreams import canned, item

SECOND, MINUTE, DAY = 1, 60, 86_400
STEPS_BACK = (-SECOND, -MINUTE, -DAY, 0)


@pytest.fixture
def database_url(stepped_database_url: str) -> str:
    return stepped_database_url


def test_no_step_changes_the_rate_limit_or_the_budget(
    stepped_server: SteppedPostgres, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "MAX_COUNTING_SECONDS", 30.0)
    source = canned(rate=Rate(per_minute=len(STEPS_BACK), per_month=1000))
    bench.request(source)
    spend = make_limiter(bench.engine, source, CircuitBreaker(bench.engine, source.name, get_settings()))
    for step in STEPS_BACK:
        stepped_server.set_clock(step)
        spend()
    for step in (*STEPS_BACK, DAY, 0):
        stepped_server.set_clock(step)
        with pytest.raises(TransientError, match="4 calls per minute is reached") as refused:
            spend()
        assert 0 < (refused.value.retry_after or 0) <= rate_limits.MINUTE + rate_limits.LEEWAY
    assert bench.one("SELECT budget_used FROM sources") == len(STEPS_BACK)


@pytest.mark.parametrize("catch_up", ["latest", "skip", "all"])
def test_no_step_repeats_or_stops_the_slots(
    stepped_server: SteppedPostgres, bench: Bench, monkeypatch: pytest.MonkeyPatch, catch_up: CatchUp
) -> None:
    """A day ahead, a day's slots are due: one under `latest`, at most one under `skip`, and 24 under `all`."""
    timetable = Timetable.empty(bench, monkeypatch)
    timetable.add(catch_up)

    def check(times: int = 2) -> list[datetime]:
        """Run some checks. Return the slots that have got a run."""
        for _ in range(times):
            request_due_runs(bench.engine)
            timetable.finish()
        rows = bench.rows("SELECT scheduled_for FROM runs ORDER BY requested_at")
        return [row["scheduled_for"] for row in rows]

    before = check()
    for step in STEPS_BACK:
        stepped_server.set_clock(step)
        assert len(check()) - len(before) in (0, 1)  # an hour may begin during the test
    before = check()
    stepped_server.set_clock(DAY)
    ahead = check(times=26)
    assert len(ahead) - len(before) in {"latest": (1,), "skip": (0, 1), "all": (24, 25)}[catch_up]
    stepped_server.set_clock(0)
    slots = check()
    assert len(slots) - len(ahead) in (0, 1)
    assert len(set(slots)) == len(slots)
    with bench.engine.connect() as connection:
        now = read_service_clock(connection)
    assert now - HOUR <= bench.one("SELECT last_slot FROM sources") <= now
    assert request_due_runs(bench.engine) <= HOUR.total_seconds()


@pytest.mark.parametrize("step", [-SECOND, -MINUTE, -DAY, DAY])
def test_a_client_that_pages_through_the_runs_gets_each_run_once(
    stepped_server: SteppedPostgres, bench: Bench, step: int
) -> None:
    def insert_runs() -> list[str]:
        runs = []
        for _ in range(5):
            runs.append(str(bench.request(canned([item()]))))
            bench.rows("UPDATE runs SET status = 'succeeded', finished_at = service_time() WHERE finished_at IS NULL")
        return runs

    check_clock(bench.engine)
    runs = insert_runs()
    for app in serve(bench.settings):
        client = app.test_client()
        listed, cursor = [], None
        for page in range(3):
            query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
            document = client.get("/runs", query_string=query).get_json()
            listed += [run["id"] for run in document["data"]]
            cursor = document["pagination"]["next_cursor"]
            if page == 0:
                stepped_server.set_clock(step)
                check_clock(bench.engine)
                newer = insert_runs()
        newest = client.get("/runs", query_string={"limit": "10"}).get_json()["data"]
    assert listed == runs[::-1]
    assert [run["id"] for run in newest] == [*newer[::-1], *runs[::-1]]
