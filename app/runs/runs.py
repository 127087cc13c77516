"""/runs: ask for an ingestion, follow it, read what it refused, stop it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import Response, g, jsonify, request, url_for
from marshmallow import Schema, fields
from sqlalchemy import select, tuple_

from app.runs.reject_schemas import RejectPage, RejectSchema
from app.runs.request_body import OF_A_KIND, RunBody
from app.runs.schemas import RunAnswer, RunSchema, dump_run, find_run, run_id, run_response, with_counters
from app.web import pagination
from app.web.arguments import (
    LINK_HEADER,
    Envelope,
    ListOf,
    NoQuery,
    OneOf,
    PageArguments,
    Pagination,
    Resource,
    list_response,
    source_name,
)
from app.web.context import context, read_connection
from app.web.problems import Code, Problem, invalid_parameter, quoted, suggestion
from sources.contract import TerminalError
from sources.registry import SOURCES
from store.tables import RUN_KINDS, RUN_STATUSES, PageRow, RejectRow, RunRow
from tasks.run_kinds.backfill import plan_backfill
from tasks.runs.idempotency import IdempotencyMismatch
from tasks.runs.parameters import BackfillParameters, ReplayParameters
from tasks.runs.requests import (
    RunConflict,
    RunRequest,
    UnknownSource,
    request_cancel,
    request_runs,
)

IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

RunKey = tuple[datetime, UUID]
PLACE = (PageRow.partition, PageRow.seq)
RejectKey = tuple[pagination.Word, pagination.Id, pagination.Id]

blueprint = Resource(
    "runs", __name__, url_prefix="/runs", description="Ingestions: one of one source each, from request to end."
)


class RunQuery(PageArguments):
    """Which runs."""

    source = ListOf(source_name(), "Only of this source.")
    status = ListOf(OneOf(RUN_STATUSES), "Only in this status.")
    kind = ListOf(OneOf(RUN_KINDS), "Only of this kind.")


class RunPage(Envelope):
    data = fields.List(fields.Nested(RunSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


class PlanSchema(Schema):
    """What a backfill of a source would do."""

    source = fields.String()
    listings = fields.Integer(metadata={"description": "Of the assets, that the source has."})
    spans = fields.Integer(metadata={"description": "Spans of time that would be fetched: as many requests."})
    skipped = fields.Integer(metadata={"description": "Spans that would not be: they are in, or failed before."})
    missing = fields.List(fields.String(), metadata={"description": "Assets that the source does not list."})


class Plans(Envelope):
    data = fields.List(fields.Nested(PlanSchema), required=True)


class RunsAccepted(Envelope):
    data = fields.List(
        fields.Nested(RunSchema), required=True, metadata={"description": "In the order they were asked for."}
    )


IN_PATH = [
    {
        "in": "path",
        "name": "run",
        "required": True,
        "description": "The run's id.",
        "schema": {"type": "string", "format": "uuid"},
    }
]


@blueprint.route("", methods=["POST"])
@blueprint.arguments(
    RunBody,
    examples={
        "one": {"summary": "One source", "value": {"source": "coingecko"}},
        "all": {"summary": "Every source", "value": {"all": True}},
        "replay": {
            "summary": "From what is kept",
            "value": {"source": "coingecko", "kind": "replay", "fetched_from": "2026-01-31T00:00:00Z"},
        },
        "backfill": {
            "summary": "Some assets' past",
            "value": {
                "source": "coingecko",
                "kind": "backfill",
                "assets": ["bitcoin"],
                "observed_from": "2026-01-01T00:00:00Z",
            },
        },
        "again": {"summary": "From the start", "value": {"source": "csv_history", "full_refresh": True}},
    },
)
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(
    202,
    RunsAccepted,
    headers={"Location": {"description": "The run, where there is one.", "schema": {"type": "string"}}},
)
@blueprint.alt_response(200, schema=Plans, description="What a backfill would do, with `dry_run`.")
@blueprint.alt_response(400, "BAD_REQUEST")
@blueprint.alt_response(409, "CONFLICT")
@blueprint.alt_response(413, "REQUEST_ENTITY_TOO_LARGE")
@blueprint.alt_response(415, "UNSUPPORTED_MEDIA_TYPE")
@blueprint.doc(
    operationId="requestRuns",
    parameters=[
        {
            "in": "header",
            "name": "Idempotency-Key",
            "description": "Repeat a request with the same key, and it is answered with the same runs.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x20-\x7e]+$"},
        }
    ],
)
def request_some(body: dict[str, Any], _: dict[str, Any]) -> Response:
    """Ask for runs

    The request is kept in the database before it is answered, so it is not lost if Redis is down. A source that has an
    unfinished run with the same parameters answers with that run; with others, nothing is asked for and it is a 409.
    """
    names = [body["source"]] if "source" in body else list(dict.fromkeys(body.get("sources", SOURCES)))
    if body["kind"] == "live":
        return accepted_runs([RunRequest(name, body["full_refresh"]) for name in names])
    given = {name: body[name] for name in OF_A_KIND[body["kind"]] if name in body}
    if body["kind"] == "replay":
        return accepted_runs([RunRequest(name, replay=ReplayParameters(**given)) for name in names])
    return _backfill(names, given)


def _backfill(names: Sequence[str], given: dict[str, Any]) -> Response:
    """Ask for backfills, or say what they would do. What is to come is not fetched."""
    is_dry = given.pop("dry_run", False)
    wanted = BackfillParameters(**{**given, "assets": tuple(dict.fromkeys(given["assets"]))})
    try:
        plans = {name: plan_backfill(context().engine, SOURCES[name], wanted, datetime.now(UTC)) for name in names}
    except TerminalError as error:
        detail = f"{error}; those that do: {', '.join(name for name, it in SOURCES.items() if it.history) or 'none'}"
        raise Problem(Code.INVALID_BODY, detail, errors=[{"in": "body", "name": "source", "detail": detail}]) from None
    if is_dry:
        return jsonify({"data": [{"source": name, **asdict(it)} for name, it in plans.items()]})
    for name, it in plans.items():
        if it.missing:
            detail = f"{name} lists no asset {quoted(it.missing[0])}"
            raise Problem(Code.INVALID_BODY, detail, errors=[{"in": "body", "name": "assets", "detail": detail}])
    return accepted_runs([RunRequest(name, backfill=wanted) for name in names])


def accepted_runs(wanted: Sequence[RunRequest]) -> Response:
    """Ask for these runs, as this request does, and answer with them."""
    traceparent = request.headers.get("traceparent", "")
    try:
        requested = request_runs(
            context().engine,
            wanted,
            requested_by="api",
            request_id=g.request_id,
            traceparent=traceparent if TRACEPARENT.fullmatch(traceparent) else None,
            idempotency_key=_idempotency_key(),
        )
    except UnknownSource as error:
        detail = f"there is no source {quoted(error.source)}{suggestion(error.source, error.known)}"
        raise Problem(Code.INVALID_BODY, detail, errors=[{"in": "body", "name": "source", "detail": detail}]) from None
    except RunConflict as error:
        hint = f"Wait for it, or POST /runs/{error.run}/cancel."
        raise Problem(Code.RUN_CONFLICT, str(error), hint=hint, headers={"Location": _path(error.run)}) from None
    except IdempotencyMismatch as error:
        raise Problem(Code.IDEMPOTENCY_MISMATCH, str(error)) from None
    with read_connection() as connection:
        found = {
            run.id: run
            for run in connection.execute(
                with_counters(select(RunRow).where(RunRow.id.in_([it.run for it in requested])))
            )
        }
    answer = jsonify({"data": [dump_run(found[it.run]) for it in requested]})
    answer.status_code = 202
    if len(requested) == 1:
        answer.headers["Location"] = _path(requested[0].run)
    return answer


@blueprint.route("")
@blueprint.arguments(RunQuery, location="query")
@blueprint.response(200, RunPage, headers=LINK_HEADER)
@blueprint.doc(operationId="listRuns")
def list_runs(arguments: dict[str, Any]) -> Response:
    """Runs, newest first"""
    limit = arguments["limit"]
    wanted = select(RunRow).order_by(RunRow.requested_at.desc(), RunRow.id.desc()).limit(limit + 1)
    for name in ("source", "status", "kind"):
        if name in arguments:
            wanted = wanted.where(getattr(RunRow, name).in_(arguments[name]))
    if "cursor" in arguments:
        after = pagination.decode(arguments["cursor"], request.path, arguments, RunKey)
        wanted = wanted.where(tuple_(RunRow.requested_at, RunRow.id) < after)
    with read_connection() as connection:
        runs = connection.execute(with_counters(wanted)).all()
    last = runs[limit - 1] if len(runs) > limit else None
    following = pagination.encode(request.path, arguments, (last.requested_at, last.id)) if last else None
    return list_response([dump_run(run) for run in runs[:limit]], limit, following)


@blueprint.route("/<run>", parameters=IN_PATH)
@blueprint.takes_nothing
@blueprint.response(200, RunAnswer)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getRun")
def get_run(run: str) -> Response:
    """One run: its progress, counters and error"""
    with read_connection() as connection:
        return jsonify(run_response(connection, run))


@blueprint.route("/<run>/cancel", methods=["POST"], parameters=IN_PATH)
@blueprint.takes_nothing
@blueprint.response(202, RunAnswer)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.alt_response(409, "CONFLICT")
@blueprint.doc(operationId="cancelRun")
def cancel_run(run: str) -> tuple[Response, int]:
    """Stop a run

    At once where no worker has it, else before its next page is committed. What it has committed stays.
    """
    status = request_cancel(context().engine, run_id(run))
    if status in ("succeeded", "partial", "failed"):
        raise Problem(Code.RUN_FINISHED, f"Run {run} had ended before, {status}.")
    with read_connection() as connection:
        return jsonify(run_response(connection, run)), 202


@blueprint.route("/<run>/rejects", parameters=IN_PATH)
@blueprint.arguments(PageArguments, location="query")
@blueprint.response(200, RejectPage, headers=LINK_HEADER)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="listRejectsOfRun")
def list_rejects(arguments: dict[str, Any], run: str) -> Response:
    """What a run could not turn into quotes, and why"""
    limit = arguments["limit"]
    wanted = (
        select(*RejectRow.__table__.c, PageRow.run, *PLACE)
        .join(PageRow, (PageRow.source == RejectRow.source) & (PageRow.body_digest == RejectRow.digest))
        .where(PageRow.run == run_id(run), PageRow.rejected > 0)
        .order_by(*PLACE, RejectRow.item_index)
        .limit(limit + 1)
    )
    if "cursor" in arguments:
        after = pagination.decode(arguments["cursor"], request.path, arguments, RejectKey)
        wanted = wanted.where(tuple_(*PLACE, RejectRow.item_index) > after)
    with read_connection() as connection:
        find_run(connection, run)
        rejects = connection.execute(wanted).all()
    last = rejects[limit - 1] if len(rejects) > limit else None
    following = (
        pagination.encode(request.path, arguments, (last.partition, last.seq, last.item_index)) if last else None
    )
    rows = [{**row._mapping, "page": row._mapping} for row in rejects[:limit]]
    return list_response(RejectSchema(many=True).dump(rows), limit, following)


def _path(run: UUID) -> str:
    return url_for("runs.get_run", run=run)


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise invalid_parameter("Idempotency-Key", "expected 1 to 255 printable ASCII characters", where="header")
    return key
