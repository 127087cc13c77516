"""Request runs on behalf of an API request, and return them as its response."""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import UUID

from flask import Response, g, jsonify, request, url_for
from marshmallow import fields
from sqlalchemy import select

from app.runs.schemas import RequestedRunSchema, dump_run, with_counters
from app.web.context import context, read_connection
from app.web.envelope import Envelope
from app.web.problems import Code, Problem, invalid_parameter, quoted, suggestion
from sources.registry import SOURCES
from store.tables import RunRow
from tasks.runs.idempotency import IdempotencyMismatch
from tasks.runs.requests import Requested, RunConflict, RunRequest, SourceBroken, UnknownSource, request_runs
from tasks.runtime.logs import hide_secrets

IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class RunsAccepted(Envelope):
    """The requested runs."""

    data = fields.List(
        fields.Nested(RequestedRunSchema),
        required=True,
        metadata={"description": "One run for each source, in request order."},
    )


def submit_runs(run_requests: Sequence[RunRequest]) -> Response:
    """Request these runs with the headers of the current API request. Return 202 with the runs, or raise a Problem."""
    replaces = {name for name, source in SOURCES.items() if source.replaces}
    if name := next((run.source for run in run_requests if run.replay and run.source in replaces), None):
        detail = f"{name} declares `replaces`, so it cannot be replayed: stored pages may have retracted quotes"
        hint = 'To apply a changed mapping, request {"full_refresh": true}.'
        errors = [{"in": "body", "name": "source", "detail": detail}]
        raise Problem(Code.INVALID_BODY, f"{detail}.", hint=hint, errors=errors)
    requested = _request_runs(run_requests)
    with read_connection() as connection:
        ids = [run.run for run in requested]
        rows = {row.id: row for row in connection.execute(with_counters(select(RunRow).where(RunRow.id.in_(ids))))}
    response = jsonify({"data": [{**dump_run(rows[run.run]), "joined": not run.created} for run in requested]})
    response.status_code = 202
    if len(ids) == 1:
        response.headers["Location"] = _path(ids[0])
    return response


def _request_runs(run_requests: Sequence[RunRequest]) -> list[Requested]:
    traceparent = request.headers.get("traceparent", "")
    try:
        return request_runs(
            context().engine,
            run_requests,
            requested_by="api",
            request_id=g.request_id,
            traceparent=traceparent if TRACEPARENT.fullmatch(traceparent) else None,
            idempotency_key=_idempotency_key(),
        )
    except UnknownSource as error:
        detail = f"there is no source {quoted(error.source)}{suggestion(error.source, error.known)}"
        raise Problem(Code.INVALID_BODY, detail, errors=[{"in": "body", "name": "source", "detail": detail}]) from None
    except SourceBroken as error:
        raise Problem(Code.SOURCE_BROKEN, hide_secrets(str(error))) from None
    except RunConflict as error:
        hint = f"Wait for run {error.run}, or cancel it: POST /runs/{error.run}/cancel."
        raise Problem(Code.RUN_CONFLICT, str(error), hint=hint, headers={"Location": _path(error.run)}) from None
    except IdempotencyMismatch as error:
        raise Problem(Code.IDEMPOTENCY_MISMATCH, str(error)) from None


def _idempotency_key() -> str | None:
    """Return the request's Idempotency-Key, or None. Raise a Problem for an invalid key."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise invalid_parameter("Idempotency-Key", "expected 1 to 255 printable ASCII characters", where="header")
    return key


def _path(run: UUID) -> str:
    return url_for("runs.get_run", run=run)
