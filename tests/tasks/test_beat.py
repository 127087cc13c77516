"""Test that beats keep the schedule if several run, if they are killed or frozen, and during outages."""

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
from tasks.runs.slots import request_slot
from tasks.schedule import MAX_QUEUED_CONTROL_TASKS, SlotScheduler
from tests.processes import Process, until
from tests.tasks.conftest import Bench
from tests.tasks.timetable import HOUR, MIDNIGHT, Timetable

Start = Callable[..., Process]


@pytest.fixture
def timetable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Timetable:
    return Timetable.empty(bench, monkeypatch)


@pytest.mark.parametrize("catch_up", ["latest", "all", "skip"])
def test_simultaneous_checks_of_several_beats_create_one_run_per_slot(timetable: Timetable, catch_up: CatchUp) -> None:
    timetable.add(catch_up, "a")
    timetable.add(catch_up, "b")
    with ThreadPoolExecutor(4) as beats:
        for slot in range(5):
            timetable.now = MIDNIGHT + slot * HOUR
            for check in [beats.submit(timetable.check) for _ in range(8)]:
                check.result(30)
            timetable.finish()
    assert timetable.slots("a") == timetable.slots("b") == ["00:00", "01:00", "02:00", "03:00", "04:00"]


def test_a_slot_of_a_locked_source_is_requested_later_and_delays_no_other_source(timetable: Timetable) -> None:
    bench = timetable.bench
    for name in ("a", "b"):
        timetable.add("latest", name)
    timetable.check("00:00:00")
    timetable.finish()
    blocker = make_engine(bench.settings.database_url, "blocker")
    with blocker.begin() as connection:
        connection.execute(text("SELECT FROM sources WHERE name = 'a' FOR NO KEY UPDATE"))
        timetable.check("01:00:00")
        assert (timetable.slots("a"), timetable.slots("b")) == (["00:00"], ["00:00", "01:00"])
    blocker.dispose()
    timetable.check("01:00:05")
    assert timetable.slots("a") == ["00:00", "01:00"]


def test_the_reconciler_publishes_a_run_if_its_beat_was_killed_before_publishing(
    timetable: Timetable, broker: Redis
) -> None:
    bench = timetable.bench
    timetable.add("latest")
    result = request_slot(bench.engine, "canned", MIDNIGHT, after=None)
    timetable.check("00:00:05")
    assert broker.llen("ingest") == 0
    reconcile(bench.engine, bench.settings)
    [message] = broker.lrange("ingest", 0, -1)
    assert json.loads(message)["headers"]["id"] == str(result.run)
    assert timetable.slots() == ["00:00"]


class Clock:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_wrong_host_clock_does_not_delay_the_sweeps(
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
    assert {header["expires"] for header in headers} == {None}, "an expiry depends on the clocks of two hosts"


def test_each_control_task_is_sent_at_its_interval(timetable: Timetable, broker: Redis, clock: Clock) -> None:
    scheduler = SlotScheduler(celery, engine=lambda: timetable.bench.engine, clock=clock)
    sent: Counter[str] = Counter()
    for _ in range(601):
        scheduler.tick()
        sent.update(json.loads(message)["headers"]["task"] for message in broker.lrange("control", 0, -1))
        broker.delete("control")
        clock.seconds += 1
    assert sent == {
        "kasparro.reconcile": 601,
        "kasparro.retain": 10,
        "kasparro.judge": 40,
        "kasparro.rematch": 2,
        "kasparro.verify": 10,
    }


def test_the_number_of_queued_control_tasks_is_limited(timetable: Timetable, broker: Redis, clock: Clock) -> None:
    scheduler = SlotScheduler(celery, engine=lambda: timetable.bench.engine, clock=clock)
    for _ in range(2 * MAX_QUEUED_CONTROL_TASKS):
        scheduler.tick()
        clock.seconds += 1
    assert broker.llen("control") == MAX_QUEUED_CONTROL_TASKS
    broker.delete("control")
    scheduler.tick()
    assert broker.llen("control") == 1


class Slots:
    """The slots that real beats requested. No worker runs, so the test ends the runs."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def finish(self) -> None:
        self._execute("UPDATE runs SET status = 'succeeded', finished_at = clock_timestamp() WHERE finished_at IS NULL")

    def of(self, source: str) -> list[float]:
        """Return the slots of the source's runs as Unix times, in the order of their requests."""
        rows = self._execute(
            "SELECT extract(epoch FROM scheduled_for) FROM runs WHERE source = :source ORDER BY requested_at",
            source=source,
        )
        return [float(row[0]) for row in rows]

    def wait_for_new_slots(self) -> None:
        """Wait until coinpaprika has three more slots."""
        before = len(self.of("coinpaprika"))
        until(lambda: self.finish() or len(self.of("coinpaprika")) >= before + 3)

    def wait_while_slots_are_missed(self) -> float:
        """Wait for three seconds on the database clock. Return coinpaprika's last slot before the wait."""
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
    """Count how often the beats logged `slot_requested`, by source and slot."""
    lines = [json.loads(line) for beat in beats for line in beat.log.read_text().splitlines() if line[:1] == "{"]
    return Counter((line["source"], line["slot"]) for line in lines if line["event"] == "slot_requested")


def failure_reason(beat: Process, event: str) -> str:
    """Return the reason of the first event with this name."""
    lines = [json.loads(line) for line in beat.log.read_text().splitlines() if line[:1] == "{"]
    return str(next(line["reason"] for line in lines if line["event"] == event))


def test_two_beats_create_one_run_per_slot_even_if_frozen_killed_and_restarted(
    engine: Engine, start: Start, broker: Redis
) -> None:
    """The source coingecko catches up on all missed slots, and coinpaprika only on the latest slot."""
    slots = Slots(engine)
    beats = [start("beat", TZ=zone, **ONE_SECOND) for zone in ("Europe/Berlin", "Pacific/Apia")]
    until(lambda: all("is starting" in beat.log.read_text() for beat in beats))
    slots.wait_for_new_slots()
    for beat in beats:
        beat.signal(signal.SIGSTOP)
    frozen_after = slots.wait_while_slots_are_missed()
    for beat in beats:
        beat.signal(signal.SIGCONT)
    slots.wait_for_new_slots()
    for beat in beats:
        beat.kill()
    killed_after = slots.wait_while_slots_are_missed()
    beats.append(start("beat", **ONE_SECOND))
    slots.wait_for_new_slots()
    until(lambda: slots.finish() or slots.of("coingecko")[-1] >= slots.of("coinpaprika")[-1])
    beats[-1].kill()

    all_slots, latest_slots = slots.of("coingecko"), slots.of("coinpaprika")
    assert all_slots == [all_slots[0] + seconds for seconds in range(len(all_slots))]
    for last in (frozen_after, killed_after):
        assert latest_slots[latest_slots.index(last) + 1] >= last + 3
    assert set(requested(beats).values()) == {1}


def test_a_beat_continues_during_an_outage_of_postgres_or_redis_and_requests_runs_later(
    engine: Engine, start: Start, broker: Redis
) -> None:
    slots, name = Slots(engine), engine.url.database
    server = create_engine(engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as postgres:
        postgres.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        beat, brokerless = start("beat", **ONE_SECOND), start("beat", REDIS_URL="redis://127.0.0.1:9/0", **ONE_SECOND)
        until(lambda: all("slots_check_failed" in process.log.read_text() for process in (beat, brokerless)))
        until(lambda: broker.llen("control") >= 3)
        postgres.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    server.dispose()
    for process in (beat, brokerless):
        until(lambda process=process: slots.finish() or requested([process]))
    assert until(lambda: "publish_failed" in brokerless.log.read_text())
    assert "connection to Postgres broke" in failure_reason(beat, "slots_check_failed")
    assert "refused" in failure_reason(brokerless, "control_task_failed")
    os.kill(beat.pid, signal.SIGTERM)
    beat.wait(10)
