"""Asking for runs: the row first, the message after the commit. Beat and the API both come through here."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from kombu.exceptions import OperationalError as BrokerUnreachable
from sqlalchemy import Connection, Engine, select, text

from settings import get_settings
from sources.registry import SOURCES
from store.tables import RunRow
from tasks.celery import celery
from tasks.runs.claims import Hold
from tasks.runs.parameters import BackfillParameters, ReplayParameters

log = structlog.get_logger()


@dataclass(frozen=True)
class RunRequest:
    """What is asked for. full_refresh: start from no cursor; nothing is deleted.

    replay: these kept pages instead of what the source has now; backfill: or some assets' past.
    """

    source: str
    full_refresh: bool = False
    replay: ReplayParameters | None = None
    backfill: BackfillParameters | None = None

    @property
    def kind(self) -> str:
        return "replay" if self.replay else "backfill" if self.backfill else "live"

    @property
    def parameters(self) -> dict[str, Any]:
        if other := self.replay or self.backfill:
            return other.parameters
        return {"full_refresh": True} if self.full_refresh else {}


@dataclass(frozen=True)
class Requested:
    """The run that answers a request; created is False where it was there already."""

    run: uuid.UUID
    created: bool


@dataclass(frozen=True)
class SlotAnswer:
    """What became of a slot: it got a run; had one; was let go, or left for later, since it met a live run; or
    somebody else was faster. run: the one that was made."""

    outcome: Literal["requested", "repeated", "dropped", "postponed", "outrun"]
    run: uuid.UUID | None = None


class UnknownSource(Exception):
    """No source has that name."""

    def __init__(self, source: str):
        super().__init__(f"There is no source {source!r}; there are: {', '.join(SOURCES)}.")
        self.source, self.known = source, tuple(SOURCES)


class RunConflict(Exception):
    """The source has another run of the kind: one with other parameters, or not of the slot that was asked for."""

    def __init__(self, source: str, run: uuid.UUID):
        super().__init__(f"{source} has an unfinished run with other parameters: {run}.")
        self.source, self.run = source, run


class IdempotencyMismatch(Exception):
    """The Idempotency-Key was used before, with another request."""


def request_runs(
    engine: Engine,
    requests: Sequence[RunRequest],
    *,
    requested_by: str,
    request_id: str | None = None,
    traceparent: str | None = None,
    idempotency_key: str | None = None,
) -> list[Requested]:
    """The runs that answer `requests`, in their order; all of them or, where one raises, none.

    Raises UnknownSource, RunConflict, IdempotencyMismatch. That Redis is down is no reason to fail: a run that could
    not be published is published by the reconciler.
    """
    for request in requests:
        if request.source not in SOURCES:
            raise UnknownSource(request.source)
    origin = {"requested_by": requested_by, "request_id": request_id, "traceparent": traceparent}
    with engine.begin() as connection:
        if idempotency_key and (answered := _answered_before(connection, idempotency_key, requests)):
            return answered
        # In sorted order, so that two who ask for the same sources wait for each other, not in a circle.
        by_source = {
            request: _insert_run(connection, request, origin)
            for request in sorted(set(requests), key=lambda it: it.source)
        }
        requested = [by_source[request] for request in requests]
        if idempotency_key:
            _remember_answer(connection, idempotency_key, requests, requested)
    publish(engine, [it.run for it in requested if it.created])
    return requested


def request_slot(
    engine: Engine, source: str, slot: datetime, *, after: datetime | None, postpone: bool = False
) -> SlotAnswer:
    """Make the run of a schedule's slot, and note that the slot was answered: both or neither. Publishes nothing.

    after: the newest slot that was answered, as the caller read it; where another one is by now, nothing is done.
    postpone: a slot that meets a live run stays unanswered, instead of being let go.
    """
    origin = {"requested_by": "schedule", "request_id": None, "traceparent": None}
    with engine.connect() as connection:
        # The run before the source's row, as a run that fails and pauses its source does it: else the two deadlock.
        try:
            requested = _insert_run(connection, RunRequest(source), origin, slot)
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
    """Note the newest slot that was answered; False, and nothing done, where `after` is not that of before any more."""
    noted = connection.execute(
        text("""
            INSERT INTO sources (name, last_slot) VALUES (:source, :slot)
            ON CONFLICT (name) DO UPDATE SET last_slot = :slot WHERE sources.last_slot IS NOT DISTINCT FROM :after
        """),
        {"source": source, "slot": slot, "after": after},
    )
    return noted.rowcount == 1


def request_cancel(engine: Engine, run: uuid.UUID) -> str | None:
    """Cancel an unfinished run: at once if no worker has it, else before its next page is committed.

    Returns the status the run has afterwards; None if there is no such run.
    """
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE runs
                   SET cancel_requested = true,
                       finished_at = CASE WHEN status = 'running' THEN NULL ELSE clock_timestamp() END,
                       status = CASE WHEN status = 'running' THEN status ELSE 'cancelled' END
                 WHERE id = :run AND status IN ('queued', 'running', 'waiting')
            """),
            {"run": run},
        )
        status: str | None = connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run})
    return status


def pause_source(engine: Engine, source: str, until: datetime | None, reason: str) -> None:
    """Run the source no more until then, or until it is resumed; a run that is under way ends its slice."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO sources (name, paused_until, paused_reason) VALUES (:source, :until, :reason)
                ON CONFLICT (name) DO UPDATE SET paused_until = :until, paused_reason = :reason
            """),
            {"source": source, "until": until, "reason": reason},
        )


def resume_source(engine: Engine, source: str) -> None:
    """Run the source again; its waiting runs are due at once."""
    with engine.begin() as connection:
        connection.execute(
            # Until now: from here on it is expected to bring something (tasks/anomalies/freshness.py).
            text("UPDATE sources SET paused_until = clock_timestamp(), paused_reason = NULL WHERE name = :source"),
            {"source": source},
        )
        waiting = connection.scalars(
            text("""
                UPDATE runs SET next_attempt_at = clock_timestamp()
                 WHERE source = :source AND status = 'waiting' RETURNING id
            """),
            {"source": source},
        ).all()
    publish(engine, waiting)


def publish(engine: Engine, runs: Iterable[uuid.UUID]) -> None:
    """Send the message of each run; one that cannot be sent now is sent by the reconciler."""
    with engine.connect() as connection:
        chosen = select(RunRow.id, RunRow.source).where(RunRow.id.in_(runs)).order_by(RunRow.requested_at)
        named = connection.execute(chosen).all()
    for run, source in named:
        try:
            celery.send_task(
                "kasparro.ingest",
                args=[str(run)],
                task_id=str(run),
                shadow=f"ingest {source}",  # the name that Flower shows
                queue="ingest",
                retry=False,
            )
        except (BrokerUnreachable, OSError) as error:
            # Redis is away, says nothing, or refuses to write: so it would with the rest.
            log.warning("publish_failed", run=str(run), reason=f"{type(error).__name__}: {error}")
            return
        with engine.begin() as connection:
            connection.execute(
                text("""
                    UPDATE runs SET published_at = clock_timestamp(), publish_count = publish_count + 1
                     WHERE id = :run AND status IN ('queued', 'waiting')
                """),
                {"run": run},
            )


def call_assistants(hold: Hold, count: int) -> None:
    """Send for other workers to take partitions of a run, beside the slice that holds it. Without them it takes longer.

    Raises nothing: where Redis is away, none come.
    """
    for _ in range(count):
        try:
            celery.send_task(
                "kasparro.assist",
                args=[str(hold.run), hold.number],
                shadow=f"assist {hold.source}",
                queue="ingest",
                retry=False,
            )
        except (BrokerUnreachable, OSError) as error:
            log.warning("publish_failed", reason=f"{type(error).__name__}: {error}")
            return


def _insert_run(
    connection: Connection, request: RunRequest, origin: dict[str, str | None], slot: datetime | None = None
) -> Requested:
    connection.execute(
        text("INSERT INTO sources (name) VALUES (:source) ON CONFLICT DO NOTHING"), {"source": request.source}
    )
    if request.backfill and (same := _unfinished(connection, request)):
        return Requested(same, created=False)
    # The run in the way may end between the two statements: then the next turn inserts.
    for _ in range(3):
        run = uuid.uuid4()
        inserted = connection.scalar(
            text("""
                INSERT INTO runs (id, source, kind, status, parameters, scheduled_for,
                                  requested_by, request_id, traceparent)
                VALUES (:run, :source, :kind, 'queued', CAST(:parameters AS jsonb), :slot,
                        :requested_by, :request_id, :traceparent)
                ON CONFLICT DO NOTHING RETURNING id
            """),
            {
                "run": run,
                "source": request.source,
                "kind": request.kind,
                "parameters": json.dumps(request.parameters),
                "slot": slot,
                **origin,
            },
        )
        if inserted:
            return Requested(run, created=True)
        existing = connection.execute(
            text("""
                SELECT id, parameters, scheduled_for FROM runs
                 WHERE source = :source AND (scheduled_for = :slot
                    OR kind = :kind AND status IN ('queued', 'running', 'waiting'))
                 ORDER BY scheduled_for = :slot DESC NULLS LAST LIMIT 1
            """),
            {"source": request.source, "slot": slot, "kind": request.kind},
        ).one_or_none()
        if existing is not None:
            # A slot is answered by its own run only; whoever asks by hand, by one that does the same.
            if existing.scheduled_for != slot if slot else existing.parameters != request.parameters:
                raise RunConflict(request.source, existing.id)
            return Requested(existing.id, created=False)
    raise RuntimeError(f"{request.source}: three runs came and went while one was asked for")


def _unfinished(connection: Connection, request: RunRequest) -> uuid.UUID | None:
    """A run of this kind, with the same parameters. Of backfills with others a source may have several."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:source, 2))"), {"source": request.source})
    same: uuid.UUID | None = connection.scalar(
        text("""
            SELECT id FROM runs
             WHERE source = :source AND kind = :kind AND status IN ('queued', 'running', 'waiting')
               AND parameters = CAST(:parameters AS jsonb) LIMIT 1
        """),
        {"source": request.source, "kind": request.kind, "parameters": json.dumps(request.parameters)},
    )
    return same


def _answered_before(connection: Connection, key: str, requests: Sequence[RunRequest]) -> list[Requested]:
    """What was answered to this key before. A second request with it waits here until the first is committed."""
    connection.execute(text("DELETE FROM idempotency_keys WHERE expires_at < clock_timestamp()"))
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))"), {"key": key})
    row = connection.execute(
        text("SELECT request_hash, answer FROM idempotency_keys WHERE key = :key"), {"key": key}
    ).one_or_none()
    if row is None:
        return []
    if bytes(row.request_hash) != _request_hash(requests):
        raise IdempotencyMismatch("This Idempotency-Key was used before, with another request.")
    return [Requested(uuid.UUID(run), created=False) for run in row.answer]


def _remember_answer(
    connection: Connection, key: str, requests: Sequence[RunRequest], requested: Sequence[Requested]
) -> None:
    connection.execute(
        text("""
            INSERT INTO idempotency_keys (key, request_hash, answer, expires_at)
            VALUES (:key, :request_hash, CAST(:answer AS jsonb), clock_timestamp() + :kept)
        """),
        {
            "key": key,
            "request_hash": _request_hash(requests),
            "answer": json.dumps([str(it.run) for it in requested]),
            "kept": timedelta(seconds=get_settings().idempotency_keys_kept),
        },
    )


def _request_hash(requests: Sequence[RunRequest]) -> bytes:
    asked = sorted([it.source, it.kind, it.parameters] for it in requests)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
