"""Keep the service's clock from going back when the database's clock does.

Every time that the service stores and compares comes from the SQL function `service_time()`: the database's clock plus
the seconds that the table `clock` stores. These seconds are 0 until the database's clock goes back.

A process detects a step back in two ways. If it has read the service's clock before, it compares that clock with its
own monotonic clock. It also compares the service's clock with the newest stored time. The process then raises the
stored seconds, so that the service's clock continues where it was. The service's clock runs at nine tenths of its speed
until the database's clock has caught up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import Connection, Engine, text

from store.locks import Lock, take_lock

log = structlog.get_logger()

T = TypeVar("T")

TOLERANCE = 0.1
"""Maximum seconds by which two clocks may drift apart between two readings, in addition to MAX_SPEED_DIFFERENCE."""

MAX_SPEED_DIFFERENCE = 0.001
"""Maximum relative difference between the speeds of two clocks. NTP changes a clock's speed by at most half of this."""

CATCH_UP_RATE = 0.1
"""Share by which the service's clock runs slower while it is ahead. The SQL function clock_ahead uses the same
number."""

MARGIN = 10.0
"""Seconds to add if the stored times show a step, since another process may have read a newer time without storing
it."""

MIN_JUMP = 1.0
"""Minimum seconds by which the database's clock must jump ahead to end an earlier correction at once."""

MAX_CORRECTIONS = 5

NEWEST_STORED_TIME = """
    (SELECT greatest((SELECT max(beaten_at) FROM heartbeats), (SELECT max(committed_at) FROM pages)))
"""
"""The newest time that is stored. Quotes and fetches are never later than the commit of their page."""

READING = f"service_time() AS time, clock_timestamp() AS wall, {NEWEST_STORED_TIME} AS stored"
"""The columns of a Reading. A statement sees only rows that were committed before it read the clock."""

# A monotonic clock that also counts the time in which the host was suspended.
_SECONDS = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Reading(NamedTuple):
    """The clocks as one statement read them. stored: the newest stored time, or None if it was not read."""

    time: datetime
    wall: datetime
    stored: datetime | None = None

    @property
    def ahead(self) -> float:
        """Return the seconds by which the service's clock is ahead of the database's clock."""
        return max(0.0, (self.time - self.wall).total_seconds())


class ClockStepped(Exception):
    """The database's clock was set since its last reading. The transaction must be rolled back and retried."""


@dataclass(frozen=True)
class _Seen:
    """The last reading of a process, and its monotonic times before and after it."""

    reading: Reading
    asked_at: float
    answered_at: float


_seen: WeakKeyDictionary[Engine, _Seen] = WeakKeyDictionary()


def monotonic_seconds() -> float:
    """Return this host's monotonic time. Take it before each statement that reads the clock."""
    return time.clock_gettime(_SECONDS)


def observe(engine: Engine, reading: Reading, asked_at: float) -> float:
    """Compare a reading with the last one, and remember it. Return the seconds by which the database's clock jumped.

    asked_at: the monotonic time before the statement. Raise ClockStepped if the service's clock went back, or if an
    earlier correction can end.
    """
    seen, last = _Seen(reading, asked_at, monotonic_seconds()), _seen.get(engine)
    jump = _jump(last, seen)
    if _deficit(last, seen) > 0 or (jump > MIN_JUMP and reading.ahead > 0):
        raise ClockStepped
    # If the statement waited for a lock, the wait may hide a step. Then keep the last reading, so that the next reading
    # can show the step.
    if last is None or _behind(last, seen, at=seen.answered_at) == 0:
        _seen[engine] = seen
    return jump


def with_steady_clock(engine: Engine, transaction: Callable[[], T]) -> T:
    """Run a transaction that observes the clock. If the clock was set, correct it and run the transaction again.

    transaction: a function that rolls back if it raises.
    """
    for _ in range(MAX_CORRECTIONS):
        try:
            return transaction()
        except ClockStepped:
            correct_clock(engine)
    return transaction()


def check_clock(engine: Engine) -> float:
    """Read the clock, and correct it if it was set. Return the seconds by which the database's clock jumped ahead."""

    def check() -> float:
        asked_at = monotonic_seconds()
        with engine.connect() as connection:
            reading = _read(connection)
        return observe(engine, reading, asked_at)

    return with_steady_clock(engine, check)


def correct_clock(engine: Engine) -> None:
    """Let the service's clock continue where it was before the database's clock was set.

    Two processes may detect the same step. The second process finds the clock already corrected, and changes nothing.
    """
    with engine.begin() as connection:
        lock_clock(connection)
        asked_at = monotonic_seconds()
        reading = _read(connection)
        seen, last = _Seen(reading, asked_at, monotonic_seconds()), _seen.get(engine)
        step, ahead = _deficit(last, seen), reading.ahead
        if step > 0:
            ahead += step
        elif (jump := _jump(last, seen)) > MIN_JUMP:
            stored_ahead = (reading.stored - reading.wall).total_seconds() if reading.stored else 0.0
            ahead = min(ahead, max(0.0, ahead - jump, stored_ahead))
        if ahead != reading.ahead:
            _save(connection, ahead)
    if step > 0:
        log.error(
            "clock_set_back",
            step_seconds=round(step, 3),
            ahead_seconds=round(ahead, 3),
            catch_up_seconds=round(ahead / CATCH_UP_RATE),
        )
    elif ahead != reading.ahead:
        log.warning("clock_set_ahead", step_seconds=round(reading.ahead - ahead, 3), ahead_seconds=round(ahead, 3))
    corrected = reading._replace(time=reading.wall + timedelta(seconds=ahead))
    _seen[engine] = _Seen(corrected, seen.asked_at, seen.answered_at)


def lock_clock(connection: Connection) -> None:
    """Lock the clock until the end of the transaction, so that no other process corrects it."""
    take_lock(connection, Lock.CLOCK)


def _read(connection: Connection) -> Reading:
    return Reading(*connection.execute(text(f"SELECT {READING}")).one())


def _save(connection: Connection, ahead: float) -> None:
    connection.execute(
        text("""
            INSERT INTO clock (ahead, since) VALUES (:ahead, clock_timestamp())
            ON CONFLICT (single) DO UPDATE SET ahead = excluded.ahead, since = excluded.since
        """),
        {"ahead": ahead},
    )


def _deficit(last: _Seen | None, now: _Seen) -> float:
    """Return the seconds by which the service's clock is behind its earliest possible time; 0 if it is not behind."""
    deficit = _behind(last, now, at=now.asked_at) if last else 0.0
    if now.reading.stored is not None and now.reading.stored > now.reading.time:
        # Only a process that has read the clock before knows how much time has passed since the newest stored time.
        margin = 0.0 if last else MARGIN
        deficit = max(deficit, (now.reading.stored - now.reading.time).total_seconds() + margin)
    return deficit


def _behind(last: _Seen, now: _Seen, *, at: float) -> float:
    """Return the seconds by which a reading made at this monotonic time is too early after the last reading, or 0."""
    elapsed = max(0.0, at - last.answered_at)
    slower = min(max(last.reading.ahead, now.reading.ahead), CATCH_UP_RATE * elapsed)
    behind = (last.reading.time - now.reading.time).total_seconds() + elapsed - slower
    return behind if behind > TOLERANCE + MAX_SPEED_DIFFERENCE * elapsed else 0.0


def _jump(last: _Seen | None, now: _Seen) -> float:
    """Return the seconds by which the database's clock is ahead of its latest possible time; 0 if it is not ahead."""
    if last is None:
        return 0.0
    elapsed = now.answered_at - last.asked_at
    return max(0.0, (now.reading.wall - last.reading.wall).total_seconds() - elapsed * (1 + MAX_SPEED_DIFFERENCE))
