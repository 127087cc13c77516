"""Answer the slots of a schedule: create a slot's run and record the slot in one transaction."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Engine, text

from tasks.runs.requests import RunConflict, RunRequest, insert_run


@dataclass(frozen=True)
class SlotAnswer:
    """The outcome of a slot, and the run that was created for it.

    requested: a run was created.
    repeated:  the slot had its run already.
    dropped:   an unfinished live run was in the way; the slot gets no run.
    postponed: the same, and the slot stays unanswered.
    outrun:    another beat recorded a slot first; nothing was done.
    """

    outcome: Literal["requested", "repeated", "dropped", "postponed", "outrun"]
    run: uuid.UUID | None = None


def request_slot(
    engine: Engine, source: str, slot: datetime, *, after: datetime | None, postpone: bool = False
) -> SlotAnswer:
    """Create the run of a slot and record the slot as answered: both or neither. The caller publishes the run.

    after:    the newest answered slot, as the caller read it. If another one is recorded by now, nothing is done.
    postpone: leave the slot unanswered if an unfinished live run is in the way, instead of dropping it.
    """
    origin = {"requested_by": "schedule", "request_id": None, "traceparent": None}
    with engine.connect() as connection:
        # Locks the run before the source's row, like a run that fails and pauses its source. Otherwise they deadlock.
        try:
            requested = insert_run(connection, RunRequest(source), origin, slot)
        except RunConflict:
            if postpone:
                return SlotAnswer("postponed")
            requested = None
        if not record_slot(connection, source, slot, after=after):
            return SlotAnswer("outrun")
        connection.commit()
    if requested is None:
        return SlotAnswer("dropped")
    return SlotAnswer("requested", requested.run) if requested.created else SlotAnswer("repeated")


def record_slot(connection: Connection, source: str, slot: datetime, *, after: datetime | None) -> bool:
    """Record a slot as the newest answered one. Return False, without a change, if `after` is no longer the newest."""
    result = connection.execute(
        text("""
            INSERT INTO sources (name, last_slot) VALUES (:source, :slot)
            ON CONFLICT (name) DO UPDATE SET last_slot = :slot WHERE sources.last_slot IS NOT DISTINCT FROM :after
        """),
        {"source": source, "slot": slot, "after": after},
    )
    return result.rowcount == 1
