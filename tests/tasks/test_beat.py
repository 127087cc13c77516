"""Beat itself: two at once, killed, frozen, cut off from what it stands on, and with its host's clock set wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, create_engine, text

from sources.contract import CatchUp
from store.engine import make_engine
from tasks.celery import celery
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import request_slot
from tasks.schedule import MOST_SWEEPS_WAITING, SlotScheduler
from tests.processes import Process, until
from tests.tasks.conftest import Bench
from tests.tasks.timetable import HOUR, MIDNIGHT, Timetable

Start = Callable[..., Process]


@pytest.fixture
def timetable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Timetable:
    return Timetable.alone(bench, monkeypatch)


@pytest.mark.parametrize("catch_up", ["latest", "all", "skip"])
def test_beats_that_look_at_the_same_moment_make_one_run_for_each_slot(timetable: Timetable, catch_up: CatchUp) -> None:
    timetable.add(catch_up, "a")
    timetable.add(catch_up, "b")
    with ThreadPoolExecutor(4) as beats:
        for slot in range(5):
            timetable.now = MIDNIGHT + slot * HOUR
            for look in [beats.submit(timetable.look) for _ in range(8)]:
                look.result(30)
            timetable.finish()
    assert timetable.slots("a") == timetable.slots("b") == ["00:00", "01:00", "02:00", "03:00", "04:00"]


def test_a_beat_that_comes_late_does_not_ask_for_what_another_one_let_go(timetable: Timetable) -> None:
    """Its look was taken before the other's, and it was frozen since."""
    engine = timetable.bench.engine
    timetable.add("latest")
    timetable.look("00:00:00")
    timetable.look("01:00:00")  # meets the run of 00:00
    timetable.finish()
    assert request_slot(engine, "canned", MIDNIGHT + HOUR, after=MIDNIGHT).outcome == "outrun"
    assert timetable.slots() == ["00:00"]
    assert timetable.bench.one("SELECT last_slot FROM sources") == MIDNIGHT + HOUR


def test_a_slot_that_cannot_be_noted_gets_no_run_yet_and_the_other_sources_get_theirs(timetable: Timetable) -> None:
    bench = timetable.bench
    for name in ("a", "b"):
        timetable.add("latest", name)
    timetable.look("00:00:00")
    timetable.finish()
    holding = make_engine(bench.settings.database_url, "holder")
    with holding.begin() as holder:
        holder.execute(text("SELECT FROM sources WHERE name = 'a' FOR NO KEY UPDATE"))
        timetable.look("01:00:00")
        assert (timetable.slots("a"), timetable.slots("b")) == (["00:00"], ["00:00", "01:00"])
    holding.dispose()
    timetable.look("01:00:05")
    assert timetable.slots("a") == ["00:00", "01:00"]


def test_a_beat_killed_before_it_could_publish_leaves_a_run_that_the_reconciler_publishes(
    timetable: Timetable, broker: Redis
) -> None:
    bench = timetable.bench
    timetable.add("latest")
    made = request_slot(bench.engine, "canned", MIDNIGHT, after=None)
    timetable.look("00:00:05")
    assert broker.llen("ingest") == 0
    reconcile(bench.engine, bench.settings)
    [message] = broker.lrange("ingest", 0, -1)
    assert json.loads(message)["headers"]["id"] == str(made.run)
    assert timetable.slots() == ["00:00"]


def test_a_slot_and_a_run_that_fails_and_pauses_its_source_do_not_deadlock(timetable: Timetable) -> None:
    timetable.add("all")
    timetable.look("00:00:00")
    patient = make_engine(timetable.bench.settings.database_url, "test")
    with ThreadPoolExecutor(1) as beat, patient.connect() as watching, patient.begin() as failing:
        failing.execute(text("UPDATE runs SET status = 'failed', finished_at = clock_timestamp()"))
        following = beat.submit(request_slot, patient, "canned", MIDNIGHT + HOUR, after=MIDNIGHT)
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted")
        until(lambda: watching.scalar(waiting))
        failing.execute(text("UPDATE sources SET paused_reason = 'key_refused'"))
        failing.commit()
        assert following.result(30).outcome == "requested"
    patient.dispose()


class Clock:
    """Seconds, as a host counts them."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_hosts_clock_that_is_set_wrong_keeps_nothing_from_being_swept(
    timetable: Timetable, broker: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = SlotScheduler(celery, engine=lambda: timetable.bench.engine, clock=clock)
    sent = []
    for jump in (0, -3600, 3600, 86400 * 3650):
        wrong = datetime.now(UTC) + timedelta(seconds=jump)
        monkeypatch.setattr(celery, "now", lambda wrong=wrong: wrong)
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong.timestamp())
        scheduler.tick()
        clock.seconds += 0.9
        assert scheduler.tick() == pytest.approx(0.1)
        clock.seconds += 0.1
        sent.append(broker.llen("control"))
    assert sent == [1, 2, 3, 4]
    headers = [json.loads(message)["headers"] for message in broker.lrange("control", 0, -1)]
    assert {header["task"] for header in headers} == {"kasparro.reconcile"}
    assert {header["expires"] for header in headers} == {None}, "the clock of another host would judge it"


def test_each_control_task_has_its_turns(timetable: Timetable, broker: Redis, clock: Clock) -> None:
    scheduler = SlotScheduler(celery, engine=lambda: timetable.bench.engine, clock=clock)
    sent: Counter[str] = Counter()
    for _ in range(601):
        scheduler.tick()
        sent.update(json.loads(message)["headers"]["task"] for message in broker.lrange("control", 0, -1))
        broker.delete("control")
        clock.seconds += 1
    assert sent == {"kasparro.reconcile": 601, "kasparro.retain": 10, "kasparro.judge": 40, "kasparro.rematch": 2}


def test_sweeps_that_nobody_takes_do_not_pile_up(timetable: Timetable, broker: Redis, clock: Clock) -> None:
    scheduler = SlotScheduler(celery, engine=lambda: timetable.bench.engine, clock=clock)
    for _ in range(2 * MOST_SWEEPS_WAITING):
        scheduler.tick()
        clock.seconds += 1
    assert broker.llen("control") == MOST_SWEEPS_WAITING
    broker.delete("control")
    scheduler.tick()
    assert broker.llen("control") == 1


class Slots:
    """What real beats have asked for; nobody works on it, so the test ends each run."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def finish(self) -> None:
        self._execute("UPDATE runs SET status = 'succeeded', finished_at = clock_timestamp() WHERE finished_at IS NULL")

    def of(self, source: str) -> list[float]:
        """In seconds since the epoch, in the order in which they were asked for."""
        rows = self._execute(
            "SELECT extract(epoch FROM scheduled_for) FROM runs WHERE source = :source ORDER BY requested_at",
            source=source,
        )
        return [float(row[0]) for row in rows]

    def go_on(self) -> None:
        """Let the schedule of coinpaprika go on for some slots."""
        before = len(self.of("coinpaprika"))
        until(lambda: self.finish() or len(self.of("coinpaprika")) >= before + 3)

    def miss_some(self) -> float:
        """Let three seconds go by on the database's clock; gives the last slot of coinpaprika before them."""
        self.finish()
        [[start]] = self._execute("SELECT clock_timestamp()")
        until(lambda: self._execute("SELECT clock_timestamp()")[0][0] > start + timedelta(seconds=3))
        return self.of("coinpaprika")[-1]

    def _execute(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []


ONE_SECOND = {"COINGECKO_EVERY": "1", "COINPAPRIKA_EVERY": "1", "COINGECKO_CATCH_UP": "all"}


def requested(beats: list[Process]) -> Counter[tuple[str, str]]:
    """By source and slot, how often beats say that they made a run."""
    lines = [json.loads(line) for beat in beats for line in beat.log.read_text().splitlines() if line[:1] == "{"]
    return Counter((line["source"], line["slot"]) for line in lines if line["event"] == "slot_requested")


def test_two_beats_frozen_killed_and_started_again_make_one_run_for_each_slot(
    engine: Engine, start: Start, broker: Redis
) -> None:
    """coingecko catches up with all that was missed, coinpaprika with the latest slot only."""
    slots = Slots(engine)
    beats = [start("beat", TZ=zone, **ONE_SECOND) for zone in ("Europe/Berlin", "Pacific/Apia")]
    until(lambda: all("is starting" in beat.log.read_text() for beat in beats))
    slots.go_on()
    for beat in beats:
        beat.signal(signal.SIGSTOP)
    frozen_after = slots.miss_some()
    for beat in beats:
        beat.signal(signal.SIGCONT)
    slots.go_on()
    for beat in beats:
        beat.kill()
    killed_after = slots.miss_some()
    beats.append(start("beat", **ONE_SECOND))
    slots.go_on()
    until(lambda: slots.finish() or slots.of("coingecko")[-1] >= slots.of("coinpaprika")[-1])
    beats[-1].kill()

    every, latest = slots.of("coingecko"), slots.of("coinpaprika")
    assert every == [every[0] + place for place in range(len(every))]
    for last in (frozen_after, killed_after):
        assert latest[latest.index(last) + 1] >= last + 3
    assert set(requested(beats).values()) == {1}


def test_a_beat_cut_off_from_database_or_broker_ticks_on_and_asks_when_it_can(
    engine: Engine, start: Start, broker: Redis
) -> None:
    slots, name = Slots(engine), engine.url.database
    server = create_engine(engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as postgres:
        postgres.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        beat, brokerless = start("beat", **ONE_SECOND), start("beat", REDIS_URL="redis://127.0.0.1:9/0", **ONE_SECOND)
        until(lambda: all("slots_check_failed" in it.log.read_text() for it in (beat, brokerless)))
        until(lambda: broker.llen("control") >= 3)
        postgres.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    server.dispose()
    for one in (beat, brokerless):
        until(lambda one=one: slots.finish() or requested([one]))
    assert until(lambda: "publish_failed" in brokerless.log.read_text())
    assert "control_task_failed" in brokerless.log.read_text()
    os.kill(beat.pid, signal.SIGTERM)
    beat.wait(10)
