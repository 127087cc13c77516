"""Compare the database with the remembered sweeps, and begin a new history if the database was set back.

A set-back means that the database no longer has commits that it acknowledged. The cause is a failover to a standby that
lagged behind, a crash without synchronous commits, or a restore. A failover without lost commits is treated as a
set-back, too.

Each sweep writes a random number into the database, and remembers it elsewhere. If a remembered number is missing from
its history, the database lost that sweep and all later commits.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, Row, text

from store.errors import describe
from store.locks import Lock, take_lock
from tasks.runtime.retry import DATABASE_ERRORS
from tasks.set_backs.memory import Sweep, recall_sweeps, remember_sweep
from tasks.set_backs.position import Position, read_position
from tasks.set_backs.repair import begin_repair, end_repairs

log = structlog.get_logger()

MAX_STEP = 2**31

MAX_SWEEPS = 240
"""Maximum number of sweeps that a history stores: those of the last hour, with the default of SWEEP_EVERY."""

_NEWEST = text("""
    SELECT number, token, system_identifier, timeline, sweeps FROM timelines ORDER BY number DESC LIMIT 1
""")

_BEGIN = text("""
    INSERT INTO timelines (system_identifier, timeline, lsn, reason)
    VALUES (:system_identifier, :timeline, :lsn, :reason) RETURNING number, token, system_identifier, timeline, sweeps
""")

_RECORD_SWEEP = text("""
    UPDATE timelines SET sweeps = sweeps[greatest(cardinality(sweeps) - :kept + 2, 1):] || CAST(:sweep AS bigint)
     WHERE number = :number
""")


def watch_history(engine: Engine) -> None:
    """Begin a new history if the database was set back, and end the repairs that are complete."""
    _watch(engine)
    with engine.begin() as connection:
        end_repairs(connection)


def report_lost_commits(engine: Engine, reason: str, known_history: UUID | None) -> None:
    """Begin a new history because a worker detected lost commits. known_history: the newest history at its start.

    If a later history has begun, the set-back was already reported. Only log a database error: the worker continues in
    any case, and the next sweep may also detect the set-back.
    """
    try:
        _watch(engine, reason, known_history)
    except DATABASE_ERRORS as error:
        log.warning("sweep_failed", step="report_lost_commits", reason=describe(error))


def _watch(engine: Engine, evidence: str | None = None, known_history: UUID | None = None) -> None:
    with engine.connect() as connection:
        position = read_position(connection)
    remembered = recall_sweeps(position)  # Redis may be slow, so it is not read in the transaction.
    with engine.begin() as connection:
        take_lock(connection, Lock.HISTORY)
        position = read_position(connection)
        history = connection.execute(_NEWEST).one_or_none()
        tokens = set(connection.scalars(text("SELECT token::text FROM timelines")))
        reason = _find_set_back(history, position, remembered, tokens)
        if evidence and (history is None or history.token == known_history):
            reason = reason or evidence
        if history is None or reason:
            begin = {**position._asdict(), "reason": reason}
            history = connection.execute(_BEGIN, begin).one()
        sources = begin_repair(connection, reason) if reason else []
        sweep = _record_sweep(connection, history)
    remember_sweep(position, sweep)
    if reason:
        log.error("database_set_back", reason=reason, sources=sources, timeline=position.timeline, lsn=position.lsn)


def _find_set_back(
    history: Row[Any] | None, position: Position, remembered: Iterable[Sweep], tokens: set[str]
) -> str | None:
    """Return how the database was set back, or None. tokens: the tokens of all histories in the database."""
    if any(sweep.token not in tokens for sweep in remembered):
        return "the database no longer has a history that it began earlier"
    if history is None:
        return None
    if _differ(history.system_identifier, position.system_identifier):
        return f"the database moved from system {history.system_identifier} to {position.system_identifier}"
    if _differ(history.timeline, position.timeline):
        return f"the database moved from timeline {history.timeline} to {position.timeline}, as in a failover"
    # A remembered sweep that is older than all stored sweeps proves nothing: its process was frozen for a long time.
    oldest = min(history.sweeps, default=0)
    numbers = [sweep.number for sweep in remembered if sweep.token == str(history.token)]
    if any(number > oldest and number not in history.sweeps for number in numbers):
        return "the database no longer has a commit that it acknowledged"
    return None


def _differ(before: object, now: object) -> bool:
    return before is not None and now is not None and before != now


def _record_sweep(connection: Connection, history: Row[Any]) -> Sweep:
    number = max(history.sweeps, default=0) + 1 + secrets.randbelow(MAX_STEP)
    connection.execute(_RECORD_SWEEP, {"number": history.number, "sweep": number, "kept": MAX_SWEEPS})
    return Sweep(str(history.token), number)
