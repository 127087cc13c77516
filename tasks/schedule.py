"""Beat that asks for runs instead of sending tasks: one for each slot of each source, named by the database's clock.

No host's clock and no time zone has a say. What the slots get that nobody could ask for in time, since beat was dead,
the database down or the source paused, is for the source to say (`catch_up`); that the database's clock jumped ahead
is an outage too. Which slots were answered stands in the database, so that it outlives beat, and two beats agree.
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
from store.errors import DatabaseError, classify
from tasks.runs.requests import publish, record_slot, request_slot
from tasks.runtime.database import worker_engine
from tasks.runtime.heartbeats import record_heartbeat

log = structlog.get_logger()

# Seconds. The next look is taken when the next slot begins; or earlier, to show that beat lives, and where slots wait
# for a run to end.
LONGEST_GAP, GAP_WHILE_BEHIND, SHORTEST_GAP = 5.0, 1.0, 0.05

# Retention often and short: it shares a worker with the reconciler.
EVERY = {"kasparro.retain": 60.0, "kasparro.judge": 15.0, "kasparro.rematch": 300.0}
"""Seconds between two turns of a control task."""

SKIPPED_AFTER = timedelta(minutes=1)
MOST_SLOTS = 1000
MOST_SWEEPS_WAITING = 10

KNOWN = "SELECT name, last_slot, paused_reason, paused_until FROM sources"


class SlotScheduler(Scheduler):
    """What Celery's beat ticks in place of its own scheduler: looks which slots are due, and has the control tasks run.

    Celery's own goes by the host's clock: set back by an hour, it would send nothing for an hour. This one counts
    seconds on a clock that only runs forward.
    """

    def __init__(
        self,
        *args: Any,
        engine: Callable[[], Engine] = worker_engine,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ):
        self._engine, self._clock = engine, clock
        # Both at once: who starts the service should not have to wait to see that it works.
        self._look_at = self._sweep_at = clock()
        self._turns = {task: clock() + every for task, every in EVERY.items()}
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Celery's own entries have no place here."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Do what is due; gives the seconds until something is again. Whatever happens in it, beat ticks on."""
        if self._clock() >= self._look_at:
            gap = self._look()
            self._look_at = self._clock() + gap
        if self._clock() >= self._sweep_at:
            self._sweep_at = self._clock() + get_settings().sweep_every
            self._send("kasparro.reconcile")
        for task, at in self._turns.items():
            if self._clock() >= at:
                self._turns[task] = self._clock() + EVERY[task]
                self._send(task)
        return max(0.0, min(self._look_at, self._sweep_at, *self._turns.values()) - self._clock())

    def _look(self) -> float:
        try:
            return request_due_runs(self._engine())
        except Exception:
            log.exception("slots_check_failed")  # the next look asks for them again
            return LONGEST_GAP

    def _send(self, task: str) -> None:
        try:
            if self._sweeps_waiting() < MOST_SWEEPS_WAITING:
                self.app.send_task(task, queue="control", retry=False)
        except Exception:
            log.exception("control_task_failed", task=task)

    def _sweeps_waiting(self) -> int:
        """They pile up while no control worker runs. An expiry would compare the clocks of two hosts."""
        with self.app.connection_for_write() as connection:
            waiting: int = connection.default_channel.queue_declare("control").message_count
        return waiting


class Due(NamedTuple):
    """The slots of a source that are to get a run, oldest first; the one before them; how many up to that get none."""

    slots: list[datetime]
    after: datetime
    let_go: int = 0


def slots_due(source: Source, answered: datetime | None, now: datetime) -> Due:
    """What is due at the time `now`, where `answered` is the newest slot that got a run or was let go."""
    present = source.slot_at(now)
    if answered is None or answered > now:  # nothing is known yet; or the clock went back, and must not be waited for
        return Due([present], present - source.every)
    unanswered = (present - source.slot_at(answered)) // source.every
    wanted = min(unanswered, MOST_SLOTS if source.catch_up == "all" else 1)
    if source.catch_up == "skip" and now - present > SKIPPED_AFTER:
        wanted = 0
    slots = [present - back * source.every for back in reversed(range(wanted))]
    let_go = unanswered - wanted
    return Due(slots, present - wanted * source.every if let_go else answered, let_go)


def database_clock(connection: Connection) -> datetime:
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


def request_due_runs(engine: Engine, clock: Callable[[Connection], datetime] = database_clock) -> float:
    """Ask for the runs that are due, of all sources that are not paused. Gives the seconds until the next look."""
    with engine.connect() as connection:
        known = {row.name: row for row in connection.execute(text(KNOWN))}
        # After the rows: a slot that another beat answers in between must not look as if it lay in the future.
        now = clock(connection)
    record_heartbeat(engine, "beat")
    runs: list[uuid.UUID] = []
    gaps = [LONGEST_GAP]
    for name, source in SOURCES.items():
        row = known.get(name)
        if row and _is_paused(row, now):
            continue
        gaps.append((source.slot_at(now) + source.every - now).total_seconds())
        try:
            made, is_behind = _answer_slots(engine, source, row.last_slot if row else None, now)
        except Exception as error:
            if classify(error) is DatabaseError.LOST:
                raise
            # What ails one source must not keep the others from running.
            log.exception("slot_failed", source=name)
        else:
            runs += made
            gaps += [min(GAP_WHILE_BEHIND, source.every.total_seconds() / 4)] if is_behind else []
    publish(engine, runs)
    return max(SHORTEST_GAP, min(gaps))


def _is_paused(row: Row[Any], now: datetime) -> bool:
    return row.paused_reason is not None and (row.paused_until is None or row.paused_until > now)


def _answer_slots(
    engine: Engine, source: Source, answered: datetime | None, now: datetime
) -> tuple[list[uuid.UUID], bool]:
    """The run that was made, if any; and whether there are slots that must wait until a run has ended."""
    due = slots_due(source, answered, now)
    if due.after != answered:
        with engine.begin() as connection:
            if not record_slot(connection, source.name, due.after, after=answered):
                return [], False
        if due.let_go:
            log.warning("slots_skipped", source=source.name, count=due.let_go, until=due.after.isoformat())
        answered = due.after
    for slot in due.slots:
        answer = request_slot(engine, source.name, slot, after=answered, postpone=source.catch_up == "all")
        if answer.outcome in ("postponed", "outrun"):
            return [], answer.outcome == "postponed"
        log.info(
            f"slot_{answer.outcome}", source=source.name, slot=slot.isoformat(), run=answer.run and str(answer.run)
        )
        if answer.run:
            return [answer.run], slot != due.slots[-1]
        answered = slot
    return [], False
