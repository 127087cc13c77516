"""Schedule runs: request one run for each slot of each source, and start the control tasks.

The service's clock (tasks/runtime/service_clock.py) decides which slot is current. Hosts' clocks and time zones do not
matter. A slot is missed if beat or the database was down, the source was paused, or the database's clock jumped ahead.
If that clock goes back, the slots continue without a gap. The source's `catch_up` policy decides whether a missed slot
gets a run or is skipped. If the source has an unfinished live run, its slot is dropped or, under the policy `all`,
postponed.

The database stores the last slot of each source that was requested, skipped or dropped. Several beats may therefore
run at once, and a restarted beat continues after that slot.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from celery.beat import Scheduler
from sqlalchemy import Connection, Engine, Row, text

from settings import get_settings
from sources.contract import Source
from sources.registry import SOURCES
from store.errors import DatabaseError, classify, describe
from store.schema import explain, read_revision
from tasks.runs.publishing import publish
from tasks.runs.slots import record_slot, request_slot
from tasks.runtime.database import worker_engine
from tasks.runtime.heartbeats import record_heartbeat
from tasks.runtime.outdated_schema import SchemaLog
from tasks.runtime.retry import DATABASE_ERRORS
from tasks.runtime.service_clock import check_clock

log = structlog.get_logger()

MAX_CHECK_INTERVAL, BEHIND_CHECK_INTERVAL, MIN_CHECK_INTERVAL = 5.0, 1.0, 0.05
"""Seconds until the next check of the slots. Beat checks when the next slot starts, and at least every 5 seconds,
because a check also records beat's heartbeat. While slots wait for a run to end, beat checks every second."""

# Retention runs often and briefly, because it shares a worker with the reconciler.
CONTROL_INTERVALS = {
    "kasparro.retain": 60.0,
    "kasparro.judge": 15.0,
    "kasparro.rematch": 300.0,
    "kasparro.verify": 60.0,
}
"""Seconds between two executions of each control task."""

SKIP_TOLERANCE = timedelta(minutes=1)
"""Maximum delay after which the policy `skip` still requests a slot."""

MAX_CATCH_UP_SLOTS = 1000
"""Maximum number of missed slots that get a run under the policy `all`. Older slots are skipped."""

MAX_QUEUED_CONTROL_TASKS = 10

SOURCE_STATES = "SELECT name, last_slot, paused_reason, paused_until FROM sources"


class SlotScheduler(Scheduler):
    """Replace the scheduler of Celery's beat: check which slots are due, and start the control tasks.

    Celery's own scheduler uses the host's clock. If that clock is set back by an hour, Celery sends nothing for an
    hour. This scheduler uses a monotonic clock.
    """

    def __init__(
        self,
        *args: Any,
        engine: Callable[[], Engine] = worker_engine,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ):
        self._engine, self._clock, self._schema_log = engine, clock, SchemaLog(clock)
        # Both are due immediately, so that a new service reports without delay that it works.
        self._next_check = self._next_sweep = clock()
        self._next_executions = {task: clock() + interval for task, interval in CONTROL_INTERVALS.items()}
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Do nothing, since Celery's own entries are not used."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Run everything that is due. Return the seconds until the next tick. Never raise: no error may stop beat."""
        if self._clock() >= self._next_check:
            interval = self._check_slots()
            self._next_check = self._clock() + interval
        if self._clock() >= self._next_sweep:
            self._next_sweep = self._clock() + get_settings().sweep_every
            self._send("kasparro.reconcile")
        for task, due_at in self._next_executions.items():
            if self._clock() >= due_at:
                self._next_executions[task] = self._clock() + CONTROL_INTERVALS[task]
                self._send(task)
        return max(0.0, min(self._next_check, self._next_sweep, *self._next_executions.values()) - self._clock())

    def _check_slots(self) -> float:
        try:
            engine = self._engine()
            with engine.connect() as connection:
                self._schema_log.revision(read_revision(connection))
            return request_due_runs(engine)
        except Exception as raised:  # the next check requests the slots again
            if not self._schema_log.error(explain(self._engine(), raised)):
                log.exception("slots_check_failed", reason=_reason(raised))
            return MAX_CHECK_INTERVAL

    def _send(self, task: str) -> None:
        try:
            if self._count_queued_tasks() < MAX_QUEUED_CONTROL_TASKS:
                self.app.send_task(task, queue="control", retry=False)
        except Exception as error:
            log.exception("control_task_failed", task=task, reason=_reason(error))

    def _count_queued_tasks(self) -> int:
        """Return the number of queued control tasks. They pile up if no control worker is running.

        The messages have no expiry, because an expiry depends on the clocks of two hosts.
        """
        with self.app.connection_for_write() as connection:
            count: int = connection.default_channel.queue_declare("control").message_count
        return count


class DueSlots(NamedTuple):
    """The slots of a source that get a run, oldest first.

    after:   the slot before the first of them. The caller must record it, if it is not recorded yet.
    skipped: the number of missed slots to skip.
    """

    slots: list[datetime]
    after: datetime
    skipped: int = 0


def list_due_slots(source: Source, last_slot: datetime | None, now: datetime) -> DueSlots:
    """Return the slots that are due at `now`. last_slot: the last slot that was requested, skipped or dropped."""
    current = source.slot_at(now)
    # The source is new, or an operator accepted a clock that was set back. In both cases, the current slot is due.
    if last_slot is None or last_slot > now:
        return DueSlots([current], current - source.every)
    missed = (current - source.slot_at(last_slot)) // source.every
    count = min(missed, MAX_CATCH_UP_SLOTS if source.catch_up == "all" else 1)
    if source.catch_up == "skip" and now - current > SKIP_TOLERANCE:
        count = 0
    slots = [current - back * source.every for back in reversed(range(count))]
    skipped = missed - count
    return DueSlots(slots, current - count * source.every if skipped else last_slot, skipped)


def read_service_clock(connection: Connection) -> datetime:
    """Return the service's time (aware, UTC)."""
    now: datetime = connection.execute(text("SELECT service_time()")).scalar_one()
    return now


def request_due_runs(engine: Engine, clock: Callable[[Connection], datetime] = read_service_clock) -> float:
    """Request the runs that are due, for all sources that are not paused. Return the seconds until the next check."""
    jump = check_clock(engine)
    if jump > get_settings().clock_skew:
        # If the clock is now wrong, wrong times cannot be recognized once they are stored. So warn the operator.
        log.warning("clock_jumped", jump_seconds=round(jump, 3))
    with engine.connect() as connection:
        states = {row.name: row for row in connection.execute(text(SOURCE_STATES))}
        # Read the clock after the rows. Otherwise a slot that another beat records between both reads could be after
        # `now`.
        now = clock(connection)
    record_heartbeat(engine, "beat")
    runs: list[uuid.UUID] = []
    intervals = [MAX_CHECK_INTERVAL]
    for name, source in SOURCES.items():
        state = states.get(name)
        if state and _is_paused(state, now):
            continue
        intervals.append((source.slot_at(now) + source.every - now).total_seconds())
        try:
            created, is_behind = _request_next_slot(engine, source, state.last_slot if state else None, now)
        except Exception as error:
            if classify(explain(engine, error)) in (DatabaseError.CONNECTION_LOST, DatabaseError.SCHEMA_BEHIND):
                raise
            # An error of one source must not stop the others.
            log.exception("slot_failed", source=name, reason=_reason(error))
        else:
            runs += created
            intervals += [min(BEHIND_CHECK_INTERVAL, source.every.total_seconds() / 4)] if is_behind else []
    publish(engine, runs)
    return max(MIN_CHECK_INTERVAL, min(intervals))


def _reason(error: Exception) -> str:
    return describe(error) if isinstance(error, DATABASE_ERRORS) else f"{type(error).__name__}: {error}"


def _is_paused(state: Row[Any], now: datetime) -> bool:
    return state.paused_reason is not None and (state.paused_until is None or state.paused_until > now)


def _request_next_slot(
    engine: Engine, source: Source, last_slot: datetime | None, now: datetime
) -> tuple[list[uuid.UUID], bool]:
    """Request the next due slot. Return the created run, if any, and whether slots wait for a run to end."""
    due = list_due_slots(source, last_slot, now)
    if due.after != last_slot:
        with engine.begin() as connection:
            if not record_slot(connection, source.name, due.after, after=last_slot):
                return [], False
        if due.skipped:
            log.warning("slots_skipped", source=source.name, count=due.skipped, until=due.after.isoformat())
        last_slot = due.after
    for slot in due.slots:
        result = request_slot(engine, source.name, slot, after=last_slot, postpone=source.catch_up == "all")
        if result.outcome in ("postponed", "superseded"):
            return [], result.outcome == "postponed"
        log.info(
            f"slot_{result.outcome}", source=source.name, slot=slot.isoformat(), run=result.run and str(result.run)
        )
        if result.run:
            return [result.run], slot != due.slots[-1]
        last_slot = slot
    return [], False
