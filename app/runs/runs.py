"""Serve /runs: request, list and cancel runs, and list their rejects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import Response, jsonify, request
from marshmallow import Schema, fields
from sqlalchemy import select, tuple_

from app.runs.reject_schemas import RejectPage, RejectSchema
from app.runs.request_body import KIND_PARAMETERS, RunBody
from app.runs.schemas import RunResponse, RunSchema, dump_run, find_run, run_id, run_response, with_counters
from app.runs.submission import RunsAccepted, submit_runs
from app.web import pagination
from app.web.arguments import ListOf, NoQuery, OneOf, PageArguments, Resource, require_usable, source_name
from app.web.context import context, read_connection
from app.web.envelope import Envelope
from app.web.lists import LINK_HEADER, Pagination, list_response
from app.web.problems import Code, Problem, quoted
from sources.contract import TerminalError
from sources.registry import SOURCES
from store.tables import RUN_KINDS, RUN_STATUSES, PageRow, RejectRow, RunRow
from tasks.run_kinds.backfill import BackfillPlan, plan_backfill
from tasks.runs.parameters import BackfillParameters, ReplayParameters
from tasks.runs.requests import RunRequest, request_cancel

RunKey = tuple[datetime, UUID]
"""requested_at and id of the last row on a page."""

PAGE_KEY_COLUMNS = (PageRow.partition, PageRow.seq)

RejectKey = tuple[pagination.Word, pagination.Id, pagination.Id]
"""partition, seq and item_index of the last row on a page."""

blueprint = Resource(
    "runs", __name__, url_prefix="/runs", description="Ingestion runs. Each run ingests data from one source."
)


class RunQuery(PageArguments):
    """Filters of the list of runs."""

    source = ListOf(source_name(), "Only runs of this source.")
    status = ListOf(OneOf(RUN_STATUSES), "Only runs with this status.")
    kind = ListOf(OneOf(RUN_KINDS), "Only runs of this kind.")


class RunPage(Envelope):
    """A page of runs."""

    data = fields.List(fields.Nested(RunSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


class BackfillPlanSchema(Schema):
    """The plan of a backfill of one source."""

    source = fields.String()
    listings = fields.Integer(metadata={"description": "Number of the source's listings to backfill."})
    spans = fields.Integer(metadata={"description": "Number of time spans to fetch, with one request for each."})
    skipped = fields.Integer(
        metadata={"description": "Number of time spans to skip, because an earlier backfill loaded or failed them."}
    )
    missing = fields.List(fields.String(), metadata={"description": "Assets that the source does not list."})


class BackfillPlans(Envelope):
    """The plan of a backfill, for each source."""

    data = fields.List(fields.Nested(BackfillPlanSchema), required=True)


IN_PATH = [
    {
        "in": "path",
        "name": "run",
        "required": True,
        "description": "Id of the run.",
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
            "summary": "Replay stored pages",
            "value": {"source": "coingecko", "kind": "replay", "fetched_from": "2026-01-31T00:00:00Z"},
        },
        "backfill": {
            "summary": "Backfill past prices of some assets",
            "value": {
                "source": "coingecko",
                "kind": "backfill",
                "assets": ["bitcoin"],
                "observed_from": "2026-01-01T00:00:00Z",
            },
        },
        "after": {
            "summary": "Another run after the current run",
            "value": {"source": "coingecko", "after": "current"},
        },
        "again": {
            "summary": "Read a source from its start, without a cursor",
            "value": {"source": "csv_history", "full_refresh": True},
        },
        "dry_run": {
            "summary": "Count the quotes that are no longer in the files of a source with `replaces`",
            "value": {"source": "closes", "full_refresh": True, "dry_run": True},
        },
    },
)
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(
    202,
    RunsAccepted,
    headers={"Location": {"description": "Path of the run, if there is only one.", "schema": {"type": "string"}}},
)
@blueprint.alt_response(200, schema=BackfillPlans, description="With `dry_run`: the plan of the backfill.")
@blueprint.alt_response(409, "CONFLICT")
@blueprint.doc(
    operationId="requestRuns",
    parameters=[
        {
            "in": "header",
            "name": "Idempotency-Key",
            "description": "A repeated request with the same key returns the same runs.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x20-\x7e]+$"},
        }
    ],
)
def create_runs(body: dict[str, Any], _: dict[str, Any]) -> Response:
    """Request runs

    The request is stored in the database before the response is sent, so it survives an outage of Redis. If a source
    already has an unfinished run of this kind with the same parameters, that run is returned, and `joined` is true. If
    the data has changed since that run started, send `"after": "current"` to queue another run. If an unfinished live
    run or replay has other parameters, the response is a 409, and no run is created for any source.
    """
    names = [body["source"]] if "source" in body else list(dict.fromkeys(body.get("sources", SOURCES)))
    for name in names:
        require_usable(name)
    if body["kind"] == "live":
        return _submit_live_runs(names, body)
    parameters = {name: body[name] for name in KIND_PARAMETERS[body["kind"]] if name in body}
    if body["kind"] == "replay":
        return submit_runs([RunRequest(name, replay=ReplayParameters(**parameters)) for name in names])
    return _submit_backfills(names, parameters)


def _submit_live_runs(names: Sequence[str], body: Mapping[str, Any]) -> Response:
    """Request live runs. Raise a Problem if a source retracts nothing, although a parameter limits retraction."""
    retraction = {name: body[name] for name in ("dry_run", "max_retracted") if name in body}
    others = [name for name in names if not SOURCES[name].replaces]
    if retraction and others:
        raise _invalid_member(
            next(iter(retraction)), f"{others[0]} does not declare `replaces`, so its full refresh retracts nothing"
        )
    after_current = body.get("after") == "current"
    return submit_runs([RunRequest(name, body["full_refresh"], after_current, **retraction) for name in names])


def _submit_backfills(names: Sequence[str], parameters: dict[str, Any]) -> Response:
    """Request backfills, or return their plans with `dry_run`. Raise a Problem if a source cannot backfill an asset."""
    is_dry_run = parameters.pop("dry_run", False)
    backfill = BackfillParameters(**{**parameters, "assets": tuple(dict.fromkeys(parameters["assets"]))})
    plans = _plan_backfills(names, backfill)
    if is_dry_run:
        return jsonify({"data": [{"source": name, **asdict(plan)} for name, plan in plans.items()]})
    for name, plan in plans.items():
        if plan.missing:
            raise _invalid_member("assets", f"{name} lists no asset {quoted(plan.missing[0])}")
    return submit_runs([RunRequest(name, backfill=backfill) for name in names])


def _plan_backfills(names: Sequence[str], backfill: BackfillParameters) -> dict[str, BackfillPlan]:
    now = datetime.now(UTC)
    try:
        return {name: plan_backfill(context().engine, SOURCES[name], backfill, now) for name in names}
    except TerminalError as error:
        sources = ", ".join(name for name, source in SOURCES.items() if source.history) or "none"
        raise _invalid_member("source", f"{error}; sources with a history: {sources}") from None


def _invalid_member(name: str, detail: str) -> Problem:
    return Problem(Code.INVALID_BODY, detail, errors=[{"in": "body", "name": name, "detail": detail}])


@blueprint.route("")
@blueprint.arguments(RunQuery, location="query")
@blueprint.response(200, RunPage, headers=LINK_HEADER)
@blueprint.doc(operationId="listRuns")
def list_runs(arguments: dict[str, Any]) -> Response:
    """List runs, newest first"""
    limit = arguments["limit"]
    query = select(RunRow).order_by(RunRow.requested_at.desc(), RunRow.id.desc()).limit(limit + 1)
    for name in ("source", "status", "kind"):
        if name in arguments:
            query = query.where(getattr(RunRow, name).in_(arguments[name]))
    if "cursor" in arguments:
        after = pagination.decode(arguments["cursor"], request.path, arguments, RunKey)
        query = query.where(tuple_(RunRow.requested_at, RunRow.id) < after)
    with read_connection() as connection:
        rows = connection.execute(with_counters(query)).all()
    last = rows[limit - 1] if len(rows) > limit else None
    next_cursor = pagination.encode(request.path, arguments, (last.requested_at, last.id)) if last else None
    return list_response([dump_run(row) for row in rows[:limit]], limit, next_cursor)


@blueprint.route("/<run>", parameters=IN_PATH)
@blueprint.without_query
@blueprint.response(200, RunResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getRun")
def get_run(run: str) -> Response:
    """Get a run: its progress, counters, error and anomalies"""
    with read_connection() as connection:
        return jsonify(run_response(connection, run))


@blueprint.route("/<run>/cancel", methods=["POST"], parameters=IN_PATH)
@blueprint.without_query
@blueprint.response(202, RunResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.alt_response(409, "CONFLICT")
@blueprint.doc(operationId="cancelRun")
def cancel_run(run: str) -> tuple[Response, int]:
    """Cancel a run

    A queued or waiting run is cancelled immediately. A running run is cancelled before it commits its next page.
    Committed pages stay.
    """
    status = request_cancel(context().engine, run_id(run))
    if status in ("succeeded", "partial", "failed"):
        raise Problem(Code.RUN_FINISHED, f"Run {run} has already finished: {status}.")
    with read_connection() as connection:
        return jsonify(run_response(connection, run)), 202


@blueprint.route("/<run>/rejects", parameters=IN_PATH)
@blueprint.arguments(PageArguments, location="query")
@blueprint.response(200, RejectPage, headers=LINK_HEADER)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="listRejectsOfRun")
def list_rejects(arguments: dict[str, Any], run: str) -> Response:
    """List the rejects of a run, with their reasons"""
    limit = arguments["limit"]
    query = (
        select(*RejectRow.__table__.c, PageRow.run, *PAGE_KEY_COLUMNS)
        .join(PageRow, (PageRow.source == RejectRow.source) & (PageRow.body_digest == RejectRow.digest))
        .where(PageRow.run == run_id(run), PageRow.rejected > 0)
        .order_by(*PAGE_KEY_COLUMNS, RejectRow.item_index)
        .limit(limit + 1)
    )
    if "cursor" in arguments:
        after = pagination.decode(arguments["cursor"], request.path, arguments, RejectKey)
        query = query.where(tuple_(*PAGE_KEY_COLUMNS, RejectRow.item_index) > after)
    with read_connection() as connection:
        find_run(connection, run)
        rows = connection.execute(query).all()
    last = rows[limit - 1] if len(rows) > limit else None
    next_cursor = (
        pagination.encode(request.path, arguments, (last.partition, last.seq, last.item_index)) if last else None
    )
    rejects = [{**row._mapping, "page": row._mapping} for row in rows[:limit]]
    return list_response(RejectSchema(many=True).dump(rejects), limit, next_cursor)
