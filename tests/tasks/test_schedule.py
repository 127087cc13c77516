"""Test that each slot gets one run, despite outages and clock changes. The tests set the time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import create_engine

from sources.contract import CatchUp, Http, Page, Window
from tasks.runs.pausing import pause_source, resume_source
from tasks.runs.requests import RunRequest, request_runs
from tasks.schedule import MAX_CATCH_UP_SLOTS, list_due_slots
from tests.tasks.conftest import Bench
from tests.tasks.timetable import HOUR, MIDNIGHT, Timetable


@pytest.fixture
def timetable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Timetable:
    return Timetable.empty(bench, monkeypatch)


AFTER_AN_OUTAGE: dict[CatchUp, list[str]] = {
    "latest": ["00:00", "04:00", "05:00"],
    "all": ["00:00", "01:00", "02:00", "03:00", "04:00", "05:00"],
    "skip": ["00:00", "05:00"],
}


@pytest.mark.parametrize("catch_up", AFTER_AN_OUTAGE)
def test_missed_slots_get_runs_according_to_the_policy(timetable: Timetable, catch_up: CatchUp) -> None:
    timetable.add(catch_up)
    for at in ("00:00:01", "04:30:00", "05:00:02"):
        timetable.now = datetime.fromisoformat(f"2026-01-01T{at}Z")
        timetable.catch_up()
    assert timetable.slots() == AFTER_AN_OUTAGE[catch_up]


@pytest.mark.parametrize("catch_up", AFTER_AN_OUTAGE)
def test_slots_missed_during_a_pause_get_runs_according_to_the_policy(timetable: Timetable, catch_up: CatchUp) -> None:
    timetable.add(catch_up)
    timetable.catch_up()
    pause_source(timetable.bench.engine, "canned", None, "maintenance")
    timetable.check("02:30:00")
    assert timetable.slots() == ["00:00"]
    resume_source(timetable.bench.engine, "canned")
    for at in ("04:30:00", "05:00:02"):
        timetable.check(at)
        timetable.catch_up()
    assert timetable.slots() == AFTER_AN_OUTAGE[catch_up]


def test_the_end_of_a_pause_is_determined_by_the_database_clock(timetable: Timetable) -> None:
    timetable.add("latest")
    pause_source(timetable.bench.engine, "canned", MIDNIGHT + HOUR, "maintenance")
    timetable.check("00:59:59")
    assert timetable.slots() == []
    timetable.check("01:00:00")
    assert timetable.slots() == ["01:00"]


@pytest.mark.parametrize("catch_up", AFTER_AN_OUTAGE)
def test_a_new_source_runs_at_once_under_every_policy(timetable: Timetable, catch_up: CatchUp) -> None:
    timetable.add(catch_up)
    timetable.check("07:40:00")
    assert timetable.slots() == ["07:00"]


@pytest.mark.parametrize(
    ("catch_up", "slots"), [("latest", ["03:00"]), ("skip", ["03:00"]), ("all", ["00:00", "01:00", "02:00", "03:00"])]
)
def test_a_slot_is_dropped_or_postponed_while_a_run_is_unfinished(
    timetable: Timetable, catch_up: CatchUp, slots: list[str]
) -> None:
    timetable.add(catch_up)
    request_runs(timetable.bench.engine, [RunRequest("canned", full_refresh=True)], requested_by="a")
    for at in ("00:00:00", "01:00:00", "02:00:00"):
        timetable.check(at)
    timetable.finish()
    timetable.check("02:30:00")
    timetable.finish()
    timetable.now = MIDNIGHT + 3 * HOUR
    timetable.catch_up()
    assert timetable.slots() == slots


def test_missed_slots_get_their_runs_one_at_a_time(timetable: Timetable) -> None:
    timetable.add("all")
    timetable.catch_up()
    assert timetable.check("02:30:00") == 1, "another slot is due, so the next check is soon"
    assert timetable.check("02:30:00") == 1
    assert timetable.slots() == ["00:00", "01:00"]
    timetable.finish()
    assert timetable.check("02:30:00") == 5
    assert timetable.slots() == ["00:00", "01:00", "02:00"]


def test_the_next_check_happens_at_the_start_of_the_next_slot(timetable: Timetable) -> None:
    timetable.add("latest")
    assert timetable.check("00:59:57.5") == 2.5
    assert timetable.check("00:30:00") == 5, "each check also sends the heartbeat"


def test_the_number_of_missed_slots_that_get_runs_is_limited(timetable: Timetable) -> None:
    source = timetable.add("all")
    timetable.catch_up()
    now = MIDNIGHT + 5000 * HOUR
    due = list_due_slots(source, MIDNIGHT, now)
    assert (len(due.slots), due.skipped, due.slots[-1]) == (MAX_CATCH_UP_SLOTS, 5000 - MAX_CATCH_UP_SLOTS, now)
    timetable.check(now)
    newest = timetable.bench.one("SELECT max(scheduled_for) FROM runs")
    assert newest == now - (MAX_CATCH_UP_SLOTS - 1) * HOUR


def test_the_policy_skip_requests_a_slot_only_if_it_is_at_most_a_minute_late(timetable: Timetable) -> None:
    timetable.add("skip")
    timetable.catch_up()
    timetable.check("01:01:00")
    timetable.finish()
    timetable.check("02:01:00.000001")
    assert timetable.slots() == ["00:00", "01:00"]


@pytest.mark.parametrize("catch_up", AFTER_AN_OUTAGE)
def test_the_schedule_continues_after_the_clock_was_set_back(timetable: Timetable, catch_up: CatchUp) -> None:
    """The clock was ten years ahead and is now correct. No slot gets two runs."""
    timetable.add(catch_up)
    timetable.check("00:00:00")
    timetable.finish()
    timetable.check(MIDNIGHT + timedelta(days=3650))
    timetable.finish()
    for at in ("00:10:00", "00:10:05", "01:00:00", "02:00:00"):
        timetable.check(at)
        timetable.finish()
    runs = timetable.bench.rows("SELECT scheduled_for FROM runs ORDER BY requested_at")
    slots = [row["scheduled_for"] for row in runs if row["scheduled_for"] < MIDNIGHT + timedelta(days=1)]
    assert slots == [MIDNIGHT, MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR]
    assert len(runs) == 4


def test_slots_missed_after_the_clock_was_set_back_get_runs(timetable: Timetable) -> None:
    timetable.add("all")
    timetable.check("09:00:00")  # The run of this slot is unfinished when the clock is corrected.
    for at in ("01:00:00", "02:00:00"):
        timetable.check(at)
    timetable.finish()
    timetable.catch_up()
    assert timetable.slots() == ["09:00", "01:00", "02:00"]


def test_a_clock_that_steps_back_across_the_start_of_a_slot_causes_no_second_run(timetable: Timetable) -> None:
    timetable.add("latest")
    for at in ("00:59:59", "01:00:00", "00:59:59.5", "01:00:00.1", "01:30:00"):
        timetable.check(at)
        timetable.finish()
    assert timetable.slots() == ["00:00", "01:00"]


def test_a_changed_interval_continues_after_the_last_requested_slot(timetable: Timetable) -> None:
    source = timetable.add("latest")
    timetable.check("02:00:00")
    timetable.finish()
    timetable.bench.register(replace(source, every=3 * HOUR))
    timetable.check("02:30:00")
    assert timetable.slots() == ["02:00"], "the three-hour slot of 00:00 is older than the last slot"
    timetable.check("03:00:00")
    assert timetable.slots() == ["02:00", "03:00"]


@pytest.fixture
def set_time_zone() -> Iterator[Callable[[str], None]]:
    """Yield a function that sets the time zone of this process."""
    before = os.environ.get("TZ")

    def move(zone: str | None) -> None:
        if zone is None:
            os.environ.pop("TZ", None)
        else:
            os.environ["TZ"] = zone
        time.tzset()

    yield move
    move(before)


@pytest.mark.parametrize(
    ("zone", "before"),
    [
        ("Europe/Berlin", "2026-03-29T00:00Z"),
        ("Europe/Berlin", "2026-10-25T00:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T14:00Z"),  # The offset changes by half an hour.
    ],
)
def test_slots_keep_their_interval_when_daylight_saving_time_changes(
    timetable: Timetable, set_time_zone: Callable[[str], None], zone: str, before: str
) -> None:
    """The process and its database sessions use a time zone with daylight saving time."""
    set_time_zone(zone)
    bench, start = timetable.bench, datetime.fromisoformat(before)
    bench.engine = create_engine(bench.engine.url, connect_args={"options": f"-c timezone={zone}"})
    bench.register(replace(timetable.add("all"), every=2 * HOUR))
    for position in range(12):
        timetable.check((start + position * HOUR / 2).astimezone())
        timetable.finish()
    runs = bench.rows("SELECT scheduled_for FROM runs ORDER BY requested_at")
    bench.engine.dispose()
    assert [row["scheduled_for"] for row in runs] == [start + hours * HOUR for hours in (0, 2, 4)]
    assert len({row["scheduled_for"].utcoffset() for row in runs}) == 2, "the time zone's offset changed in between"


def test_fetch_receives_the_slot_of_its_run(timetable: Timetable) -> None:
    windows: list[Window] = []

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        windows.append(window)
        yield from ()

    bench, source = timetable.bench, replace(timetable.add("all"), fetch=fetch)
    bench.register(source)
    timetable.check("05:30:00")
    bench.slice(bench.one("SELECT id FROM runs"))
    bench.ingest(source)
    assert [window.slot for window in windows] == [MIDNIGHT + 5 * HOUR, None]
