"""Beat that asks for runs instead of sending tasks: one for each slot of each source, named by the database's clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog
from celery.beat import ScheduleEntry, Scheduler
from celery.schedules import schedule
from sqlalchemy import Engine, text

from settings import get_settings
from sources.contract import EPOCH
from sources.registry import SOURCES
from tasks.control import beat_heart
from tasks.database import worker_engine
from tasks.runs import request_slot

log = structlog.get_logger()

REQUEST_DUE = "request-due-runs"
LOOK_EVERY = 5.0


class SlotScheduler(Scheduler):
    """Two entries: one looks every few seconds which slots are due, one sends the reconciler's message.

    A slot is asked for until the database has answered, and then no more: its run was made, or it met a live run and
    is dropped. What two beats ask for twice is one run, since a slot names it.
    """

    # The inherited property waits here for Redis; asking for runs does not need it.
    producer = None

    def __init__(self, *args: Any, **kwargs: Any):
        self._answered: dict[str, datetime] = {}
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        every = get_settings().sweep_every
        # Both at once: who starts the service should not have to wait to see that it works.
        due = {"last_run_at": EPOCH}
        self.update_from_dict(
            {
                REQUEST_DUE: {"task": REQUEST_DUE, "schedule": timedelta(seconds=LOOK_EVERY), **due},
                "reconcile": {
                    "task": "kasparro.reconcile",
                    "schedule": schedule(timedelta(seconds=every)),
                    **due,
                    # One that waited for longer than the gap to the next has nothing to add to it.
                    "options": {"queue": "control", "expires": every, "retry": False},
                },
            }
        )

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        if entry.name == REQUEST_DUE:
            self._request_due_runs()
        else:
            super().apply_entry(entry, producer)

    def _request_due_runs(self) -> None:
        try:
            request_due_runs(worker_engine(), self._answered)
        except Exception:
            # Whatever it was, beat must tick on: the next look asks for the same slots again.
            log.exception("slots_not_requested")


def request_due_runs(engine: Engine, answered: dict[str, datetime]) -> None:
    """Ask for the present slot of each source, unless `answered` says that was done; note it there."""
    with engine.connect() as connection:
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        paused = set(
            connection.scalars(
                text("""
                    SELECT name FROM sources
                     WHERE paused_reason IS NOT NULL AND (paused_until IS NULL OR paused_until > clock_timestamp())
                """)
            )
        )
    beat_heart(engine, "beat")
    for name, source in SOURCES.items():
        slot = source.slot_at(now)
        if name in paused or answered.get(name) == slot:
            continue
        requested = request_slot(engine, name, slot)
        answered[name] = slot
        outcome = "requested" if requested and requested.created else "dropped"
        log.info("slot_" + outcome, source=name, slot=slot.isoformat(), run=str(requested.run) if requested else None)
