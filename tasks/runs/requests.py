"""Request and cancel runs, for beat and for the API. A run's row is committed before its message is sent."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, text

from sources.registry import BROKEN, SOURCES
from store.locks import NamedLock, take_named_lock
from tasks.runs.idempotency import recall_runs, remember_runs
from tasks.runs.parameters import BackfillParameters, ReplayParameters
from tasks.runs.publishing import publish

INSERT_ATTEMPTS = 3


@dataclass(frozen=True)
class RunRequest:
    """A request for a live run, a replay or a backfill.

    full_refresh:  start the live run without a cursor. If the source declares `replaces`, retract its missing quotes.
    dry_run:       with full_refresh, count the missing quotes, and retract none.
    max_retracted: with full_refresh, the maximum number of quotes to retract. None: half of the source's quotes.
    after_current: if a live run has already started, queue one more that starts after its end.
    """

    source: str
    full_refresh: bool = False
    after_current: bool = False
    replay: ReplayParameters | None = None
    backfill: BackfillParameters | None = None
    dry_run: bool = False
    max_retracted: int | None = None

    @property
    def kind(self) -> str:
        return "replay" if self.replay else "backfill" if self.backfill else "live"

    @property
    def parameters(self) -> dict[str, Any]:
        if other := self.replay or self.backfill:
            return other.parameters
        values = {"full_refresh": self.full_refresh, "dry_run": self.dry_run, "max_retracted": self.max_retracted}
        return {name: value for name, value in values.items() if value is not None and value is not False}


@dataclass(frozen=True)
class Requested:
    """The run of a request. created: False if it already existed. must_wait: whether it starts after another run."""

    run: uuid.UUID
    created: bool
    must_wait: bool = False


class UnknownSource(Exception):
    """No source has this name."""

    def __init__(self, source: str):
        super().__init__(f"There is no source {source!r}. Known sources: {', '.join(SOURCES)}.")
        self.source, self.known = source, tuple(SOURCES)


class SourceBroken(Exception):
    """The source's module, declaration or settings are wrong. The message says what to correct."""

    def __init__(self, source: str):
        super().__init__(f"{source} is broken: {BROKEN[source].detail}")
        self.source = source


class RunConflict(Exception):
    """The source has an unfinished run of this kind with other parameters, or for another slot."""

    def __init__(self, source: str, run: uuid.UUID):
        super().__init__(f"{source} has an unfinished run with other parameters: {run}.")
        self.source, self.run = source, run


def request_runs(
    engine: Engine,
    requests: Sequence[RunRequest],
    *,
    requested_by: str,
    request_id: str | None = None,
    traceparent: str | None = None,
    idempotency_key: str | None = None,
) -> list[Requested]:
    """Request runs. Return one run for each request, in the same order. If one request raises, no run is created.

    If the source already has an unfinished run like the requested one, return that run. If Redis is down, the
    reconciler publishes the runs later.

    Raise UnknownSource, SourceBroken, RunConflict or IdempotencyMismatch.
    """
    for request in requests:
        if request.source in BROKEN:
            raise SourceBroken(request.source)
        if request.source not in SOURCES:
            raise UnknownSource(request.source)
    origin = {"requested_by": requested_by, "request_id": request_id, "traceparent": traceparent}
    with engine.begin() as connection:
        if idempotency_key and (runs := recall_runs(connection, idempotency_key, _request_hash(requests))):
            return [Requested(run, created=False) for run in runs]
        # In sorted order, so that two clients that request the same sources cannot deadlock.
        runs_by_request = {
            request: insert_run(connection, request, origin)
            for request in sorted(set(requests), key=lambda request: request.source)
        }
        results = [runs_by_request[request] for request in requests]
        if idempotency_key:
            runs = [result.run for result in results]
            remember_runs(connection, idempotency_key, _request_hash(requests), runs)
    publish(engine, [result.run for result in results if result.created and not result.must_wait])
    return results


def request_cancel(engine: Engine, run: uuid.UUID) -> str | None:
    """Cancel an unfinished run. If a worker has claimed it, the run ends before its next page is committed.

    Return the run's new status, or None if there is no such run.
    """
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE runs
                   SET cancel_requested = true,
                       finished_at = CASE WHEN status = 'running' THEN NULL ELSE service_time() END,
                       status = CASE WHEN status = 'running' THEN status ELSE 'cancelled' END
                 WHERE id = :run AND status IN ('queued', 'running', 'waiting')
            """),
            {"run": run},
        )
        status: str | None = connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run})
    return status


def insert_run(
    connection: Connection, request: RunRequest, origin: Mapping[str, str | None], slot: datetime | None = None
) -> Requested:
    """Insert a queued run, or return the existing run that matches the request. Raise RunConflict.

    origin: the origin of the request: requested_by, request_id and traceparent.
    slot:   the slot of a scheduled run. If set, only a run of this slot matches the request.
    """
    connection.execute(
        text("INSERT INTO sources (name) VALUES (:source) ON CONFLICT DO NOTHING"), {"source": request.source}
    )
    if request.backfill and (run := _find_same_backfill(connection, request)):
        return Requested(run, created=False)
    # The conflicting run may end between the two statements. The next attempt then inserts a run.
    for _ in range(INSERT_ATTEMPTS):
        if run := _insert(connection, request, origin, slot):
            return Requested(run, created=True)
        if request.after_current:
            # The run in progress is never an answer, so it is not looked up below.
            if successor := _find_or_insert_successor(connection, request, origin):
                return successor
            continue
        existing = connection.execute(
            text("""
                SELECT id, parameters, scheduled_for FROM runs
                 WHERE source = :source AND (scheduled_for = :slot
                    OR kind = :kind AND status IN ('queued', 'running', 'waiting'))
                 ORDER BY scheduled_for = :slot DESC NULLS LAST, requested_at LIMIT 1
            """),
            {"source": request.source, "slot": slot, "kind": request.kind},
        ).one_or_none()
        if existing is not None:
            # A slot matches only its own run. Any other request matches a run with the same parameters.
            if existing.scheduled_for != slot if slot else existing.parameters != request.parameters:
                raise RunConflict(request.source, existing.id)
            return Requested(existing.id, created=False)
    raise RuntimeError(f"{request.source}: {INSERT_ATTEMPTS} conflicting runs started and ended during one request")


def _find_or_insert_successor(
    connection: Connection, request: RunRequest, origin: Mapping[str, str | None]
) -> Requested | None:
    """Return the run that starts after the current run of this kind. Return None if the current run has just ended.

    A current run that has not started will read everything, so it is returned itself. Raise RunConflict if the
    successor has other parameters.
    """
    # The lock keeps the current run from starting or ending until the successor is committed.
    unfinished = connection.execute(
        text("""
            SELECT id, parameters, after_run, claims FROM runs
             WHERE source = :source AND kind = :kind AND status IN ('queued', 'running', 'waiting')
               FOR NO KEY UPDATE
        """),
        {"source": request.source, "kind": request.kind},
    ).all()
    ids = {run.id for run in unfinished}
    current = next((run for run in unfinished if run.after_run not in ids), None)
    successor = next((run for run in unfinished if run.after_run in ids), None)
    if current is None:
        return None
    if successor is None and current.claims == 0 and current.parameters == request.parameters:
        return Requested(current.id, created=False)
    if successor is None:
        run = _insert(connection, request, origin, after=current.id)
        return Requested(run, created=True, must_wait=True) if run else None
    if successor.parameters != request.parameters:
        raise RunConflict(request.source, successor.id)
    return Requested(successor.id, created=False, must_wait=True)


def _insert(
    connection: Connection,
    request: RunRequest,
    origin: Mapping[str, str | None],
    slot: datetime | None = None,
    after: uuid.UUID | None = None,
) -> uuid.UUID | None:
    run: uuid.UUID | None = connection.scalar(
        text("""
            INSERT INTO runs (id, source, kind, status, parameters, scheduled_for, after_run,
                              requested_by, request_id, traceparent)
            SELECT :run, :source, :kind, 'queued', CAST(:parameters AS jsonb), CAST(:slot AS timestamptz),
                   CAST(:after AS uuid), :requested_by, :request_id, :traceparent
             -- The unique index does not see an unfinished successor, whose predecessor may have ended.
             WHERE CAST(:after AS uuid) IS NOT NULL OR :kind NOT IN ('live', 'replay') OR NOT EXISTS (
                   SELECT FROM runs WHERE source = :source AND kind = :kind AND after_run IS NOT NULL
                      AND status IN ('queued', 'running', 'waiting'))
            ON CONFLICT DO NOTHING RETURNING id
        """),
        {
            "run": uuid.uuid4(),
            "source": request.source,
            "kind": request.kind,
            "parameters": json.dumps(request.parameters),
            "slot": slot,
            "after": after,
            **origin,
        },
    )
    return run


def _find_same_backfill(connection: Connection, request: RunRequest) -> uuid.UUID | None:
    """Return an unfinished backfill with the same parameters. A source may have several, with different parameters."""
    take_named_lock(connection, NamedLock.BACKFILLS, request.source)
    run: uuid.UUID | None = connection.scalar(
        text("""
            SELECT id FROM runs
             WHERE source = :source AND kind = :kind AND status IN ('queued', 'running', 'waiting')
               AND parameters = CAST(:parameters AS jsonb) LIMIT 1
        """),
        {"source": request.source, "kind": request.kind, "parameters": json.dumps(request.parameters)},
    )
    return run


def _request_hash(requests: Sequence[RunRequest]) -> bytes:
    # Only a request of this form has a fourth element, so that the hashes of other requests do not change.
    summary = sorted(
        [request.source, request.kind, request.parameters, *(["after"] if request.after_current else [])]
        for request in requests
    )
    return hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).digest()
