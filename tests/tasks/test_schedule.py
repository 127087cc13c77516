"""The schedule: each slot gets one run, whatever happens to beat and to the clocks; the tests set the time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import create_engine

from sources.contract import CatchUp, Http, Page, Window
from tasks.runs.requests import RunRequest, pause_source, request_runs, resume_source
from tasks.schedule import MOST_SLOTS, slots_due
from tests.tasks.conftest import Bench
from tests.tasks.timetable import HOUR, MIDNIGHT, Timetable


@pytest.fixture
def timetable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Timetable:
    return Timetable.alone(bench, monkeypatch)


AFTER_AN_OUTAGE: dict[CatchUp, list[str]] = {
    "latest": ["00:00", "04:00", "05:00"],
    "all": ["00:00", "01:00", "02:00", "03:00", "04:00", "05:00"],
    "skip": ["00:00", "05:00"],
}


@pytest.mark.parametrize("catch_up", AFTER_AN_OUTAGE)
def test_after_an_outage_the_missed_slots_get_what_the_policy_says(timetable: Timetable, catch_up: CatchUp) -> None:
    timetable.add(catch_up)
    for at in ("00:00:01", "04:30:00", "05:00:02"):
        timetable.now = datetime.fromisoformat(f"2026-01-01T{at}Z")
        timetable.catch_up()
    assert timetable.slots() == AFTER_AN_OUTAGE[catch_up]


@pytest.mark.parametrize("catch_up", AFTER_AN_OUTAGE)
def test_a_pause_is_an_outage_when_it_ends(timetable: Timetable, catch_up: CatchUp) -> None:
    timetable.add(catch_up)
    timetable.catch_up()
    pause_source(timetable.bench.engine, "canned", None, "maintenance")
    timetable.look("02:30:00")
    assert timetable.slots() == ["00:00"]
    resume_source(timetable.bench.engine, "canned")
    for at in ("04:30:00", "05:00:02"):
        timetable.look(at)
        timetable.catch_up()
    assert timetable.slots() == AFTER_AN_OUTAGE[catch_up]


def test_a_pause_ends_by_the_databases_clock(timetable: Timetable) -> None:
    timetable.add("latest")
    pause_source(timetable.bench.engine, "canned", MIDNIGHT + HOUR, "maintenance")
    timetable.look("00:59:59")
    assert timetable.slots() == []
    timetable.look("01:00:00")
    assert timetable.slots() == ["01:00"]


@pytest.mark.parametrize("catch_up", AFTER_AN_OUTAGE)
def test_a_source_that_is_new_is_run_at_once_whatever_its_policy(timetable: Timetable, catch_up: CatchUp) -> None:
    timetable.add(catch_up)
    timetable.look("07:40:00")
    assert timetable.slots() == ["07:00"]


@pytest.mark.parametrize(
    ("catch_up", "slots"), [("latest", ["03:00"]), ("skip", ["03:00"]), ("all", ["00:00", "01:00", "02:00", "03:00"])]
)
def test_a_slot_that_meets_a_live_run_is_let_go_or_with_all_made_later(
    timetable: Timetable, catch_up: CatchUp, slots: list[str]
) -> None:
    timetable.add(catch_up)
    request_runs(timetable.bench.engine, [RunRequest("canned", full_refresh=True)], requested_by="a")
    for at in ("00:00:00", "01:00:00", "02:00:00"):
        timetable.look(at)
    timetable.finish()
    timetable.look("02:30:00")
    timetable.finish()
    timetable.now = MIDNIGHT + 3 * HOUR
    timetable.catch_up()
    assert timetable.slots() == slots


def test_runs_that_catch_up_come_one_after_another(timetable: Timetable) -> None:
    timetable.add("all")
    timetable.catch_up()
    assert timetable.look("02:30:00") == 1, "soon again: there is more"
    assert timetable.look("02:30:00") == 1
    assert timetable.slots() == ["00:00", "01:00"]
    timetable.finish()
    assert timetable.look("02:30:00") == 5
    assert timetable.slots() == ["00:00", "01:00", "02:00"]


def test_the_next_look_is_when_the_next_slot_begins(timetable: Timetable) -> None:
    timetable.add("latest")
    assert timetable.look("00:59:57.5") == 2.5
    assert timetable.look("00:30:00") == 5, "and often enough to show that beat lives"


def test_a_long_outage_is_not_caught_up_with_without_end(timetable: Timetable) -> None:
    source = timetable.add("all")
    timetable.catch_up()
    present = MIDNIGHT + 5000 * HOUR
    due = slots_due(source, MIDNIGHT, present)
    assert (len(due.slots), due.let_go, due.slots[-1]) == (MOST_SLOTS, 5000 - MOST_SLOTS, present)
    timetable.look(present)
    made = timetable.bench.one("SELECT max(scheduled_for) FROM runs")
    assert made == present - (MOST_SLOTS - 1) * HOUR


def test_the_policy_skip_takes_a_slot_that_is_a_minute_late_and_no_later_one(timetable: Timetable) -> None:
    timetable.add("skip")
    timetable.catch_up()
    timetable.look("01:01:00")
    timetable.finish()
    timetable.look("02:01:00.000001")
    assert timetable.slots() == ["00:00", "01:00"]


@pytest.mark.parametrize("catch_up", AFTER_AN_OUTAGE)
def test_a_clock_that_went_back_is_not_waited_for(timetable: Timetable, catch_up: CatchUp) -> None:
    """Ten years ahead by mistake, then right again: the schedule goes on, and no slot is run twice."""
    timetable.add(catch_up)
    timetable.look("00:00:00")
    timetable.finish()
    timetable.look(MIDNIGHT + timedelta(days=3650))
    timetable.finish()
    for at in ("00:10:00", "00:10:05", "01:00:00", "02:00:00"):
        timetable.look(at)
        timetable.finish()
    runs = timetable.bench.rows("SELECT scheduled_for FROM runs ORDER BY requested_at")
    slots = [row["scheduled_for"] for row in runs if row["scheduled_for"] < MIDNIGHT + timedelta(days=1)]
    assert slots == [MIDNIGHT, MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR]
    assert len(runs) == 4


def test_slots_missed_after_the_clock_went_back_are_caught_up_with(timetable: Timetable) -> None:
    timetable.add("all")
    timetable.look("09:00:00")  # its run is still under way when the clock is put right
    for at in ("01:00:00", "02:00:00"):
        timetable.look(at)
    timetable.finish()
    timetable.catch_up()
    assert timetable.slots() == ["09:00", "01:00", "02:00"]


def test_a_step_back_over_the_edge_of_a_slot_makes_no_run_twice(timetable: Timetable) -> None:
    timetable.add("latest")
    for at in ("00:59:59", "01:00:00", "00:59:59.5", "01:00:00.1", "01:30:00"):
        timetable.look(at)
        timetable.finish()
    assert timetable.slots() == ["00:00", "01:00"]


def test_a_changed_interval_goes_on_from_the_slot_that_was_answered(timetable: Timetable) -> None:
    source = timetable.add("latest")
    timetable.look("02:00:00")
    timetable.finish()
    timetable.bench.register(replace(source, every=3 * HOUR))
    timetable.look("02:30:00")
    assert timetable.slots() == ["02:00"], "the slot of three hours, 00:00, began before it"
    timetable.look("03:00:00")
    assert timetable.slots() == ["02:00", "03:00"]


@pytest.fixture
def in_time_zone() -> Iterator[Callable[[str], None]]:
    """Moves this process to a time zone."""
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
        ("Australia/Lord_Howe", "2026-04-04T14:00Z"),  # by half an hour
    ],
)
def test_slots_are_equally_far_apart_where_clocks_are_changed(
    timetable: Timetable, in_time_zone: Callable[[str], None], zone: str, before: str
) -> None:
    """Whatever time zone this process, and its sessions at the database, are in."""
    in_time_zone(zone)
    bench, start = timetable.bench, datetime.fromisoformat(before)
    bench.engine = create_engine(bench.engine.url, connect_args={"options": f"-c timezone={zone}"})
    bench.register(replace(timetable.add("all"), every=2 * HOUR))
    for place in range(12):
        timetable.look((start + place * HOUR / 2).astimezone())
        timetable.finish()
    runs = bench.rows("SELECT scheduled_for FROM runs ORDER BY requested_at")
    bench.engine.dispose()
    assert [row["scheduled_for"] for row in runs] == [start + place * HOUR for place in (0, 2, 4)]
    assert len({row["scheduled_for"].utcoffset() for row in runs}) == 2, "the clocks were changed meanwhile"


def test_a_fetch_is_told_the_slot_it_fetches_for(timetable: Timetable) -> None:
    windows: list[Window] = []

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        windows.append(window)
        yield from ()

    bench, source = timetable.bench, replace(timetable.add("all"), fetch=fetch)
    bench.register(source)
    timetable.look("05:30:00")
    bench.slice(bench.one("SELECT id FROM runs"))
    bench.ingest(source)
    assert [window.slot for window in windows] == [MIDNIGHT + 5 * HOUR, None]
