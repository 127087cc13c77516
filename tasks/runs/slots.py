"""Request the slots of a schedule: create a slot's run and record the slot in one transaction."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Engine, text

from tasks.runs.requests import RunConflict, RunRequest, insert_run


@dataclass(frozen=True)
class SlotResult:
    """The outcome of a slot's request, and the created run, if any.

    requested:  a run was created.
    repeated:   the slot already had its run.
    dropped:    the source has an unfinished live run, so the slot gets no run.
    postponed:  the source has an unfinished live run, so the slot stays due.
    superseded: another beat recorded a slot first, so nothing was changed.
    """

    outcome: Literal["requested", "repeated", "dropped", "postponed", "superseded"]
    run: uuid.UUID | None = None


def request_slot(
    engine: Engine, source: str, slot: datetime, *, after: datetime | None, postpone: bool = False
) -> SlotResult:
    """Create the run of a slot and record the slot, both or neither. The caller publishes the run.

    after:    the last recorded slot that the caller read. If another slot is recorded by now, change nothing.
    postpone: postpone the slot if the source has an unfinished live run, instead of dropping it.
    """
    origin = {"requested_by": "schedule", "request_id": None, "traceparent": None}
    with engine.connect() as connection:
        # Lock the run before the source's row, because a run that fails and pauses its source does so too. Otherwise
        # the two could deadlock.
        try:
            requested = insert_run(connection, RunRequest(source), origin, slot)
        except RunConflict:
            if postpone:
                return SlotResult("postponed")
            requested = None
        if not record_slot(connection, source, slot, after=after):
            return SlotResult("superseded")
        connection.commit()
    if requested is None:
        return SlotResult("dropped")
    return SlotResult("requested", requested.run) if requested.created else SlotResult("repeated")


def record_slot(connection: Connection, source: str, slot: datetime, *, after: datetime | None) -> bool:
    """Record a slot. Return False, without a change, if `after` is no longer the last recorded slot."""
    result = connection.execute(
        text("""
            INSERT INTO sources (name, last_slot) VALUES (:source, :slot)
            ON CONFLICT (name) DO UPDATE SET last_slot = :slot WHERE sources.last_slot IS NOT DISTINCT FROM :after
        """),
        {"source": source, "slot": slot, "after": after},
    )
    return result.rowcount == 1
