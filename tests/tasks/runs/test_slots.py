"""Test that a slot and its run are recorded together or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from sqlalchemy import text

from store.engine import make_engine
from tasks.runs.slots import record_slot, request_slot
from tests.processes import until
from tests.tasks.conftest import Bench
from tests.tasks.timetable import HOUR, MIDNIGHT, Timetable


@pytest.fixture
def timetable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Timetable:
    return Timetable.empty(bench, monkeypatch)


def test_a_slot_gets_only_one_run(timetable: Timetable) -> None:
    engine = timetable.bench.engine
    timetable.add("latest")
    first = request_slot(engine, "canned", MIDNIGHT, after=None)
    again = request_slot(engine, "canned", MIDNIGHT, after=MIDNIGHT)
    assert (first.outcome, again.outcome, again.run) == ("requested", "repeated", None)
    assert timetable.bench.one("SELECT id FROM runs") == first.run


@pytest.mark.parametrize(
    ("postpone", "outcome", "last_slot"), [(False, "dropped", MIDNIGHT + HOUR), (True, "postponed", MIDNIGHT)]
)
def test_a_slot_is_dropped_or_postponed_while_a_run_is_unfinished(
    timetable: Timetable, postpone: bool, outcome: str, last_slot: datetime
) -> None:
    engine = timetable.bench.engine
    timetable.add("latest")
    request_slot(engine, "canned", MIDNIGHT, after=None)
    result = request_slot(engine, "canned", MIDNIGHT + HOUR, after=MIDNIGHT, postpone=postpone)
    assert (result.outcome, result.run) == (outcome, None)
    assert timetable.bench.one("SELECT last_slot FROM sources") == last_slot


def test_a_late_beat_does_not_request_a_slot_that_another_beat_dropped(timetable: Timetable) -> None:
    """The late beat read the last slot before the other beat did, and was then frozen."""
    engine = timetable.bench.engine
    timetable.add("latest")
    timetable.check("00:00:00")
    timetable.check("01:00:00")  # The run of 00:00 is unfinished.
    timetable.finish()
    assert request_slot(engine, "canned", MIDNIGHT + HOUR, after=MIDNIGHT).outcome == "superseded"
    assert timetable.slots() == ["00:00"]
    assert timetable.bench.one("SELECT last_slot FROM sources") == MIDNIGHT + HOUR


def test_requesting_a_slot_while_a_failed_run_pauses_its_source_does_not_deadlock(timetable: Timetable) -> None:
    timetable.add("all")
    timetable.check("00:00:00")
    engine = make_engine(timetable.bench.settings.database_url, "test")  # This engine has no lock timeout.
    with ThreadPoolExecutor(1) as beat, engine.connect() as observer, engine.begin() as failing:
        failing.execute(text("UPDATE runs SET status = 'failed', finished_at = clock_timestamp()"))
        following = beat.submit(request_slot, engine, "canned", MIDNIGHT + HOUR, after=MIDNIGHT)
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted")
        until(lambda: observer.scalar(waiting))
        failing.execute(text("UPDATE sources SET paused_reason = 'key_refused'"))
        failing.commit()
        assert following.result(30).outcome == "requested"
    engine.dispose()


def test_a_slot_is_recorded_only_if_the_caller_read_the_current_last_slot(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        assert record_slot(connection, "canned", MIDNIGHT, after=None)
        assert not record_slot(connection, "canned", MIDNIGHT + HOUR, after=None)
        assert record_slot(connection, "canned", MIDNIGHT + HOUR, after=MIDNIGHT)
    assert bench.one("SELECT last_slot FROM sources") == MIDNIGHT + HOUR
