"""One run as it is answered: its row, the sums over its pages, and how long it took."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from marshmallow import Schema, fields
from sqlalchemy import Connection, Row, Select, func, select, true

from app.runs.anomaly_schemas import AnomalySchema, run_anomalies
from app.web.arguments import Envelope
from app.web.formats import Instant
from app.web.problems import Code, Problem, quoted
from store.tables import RUN_KINDS, RUN_STATUSES, PageRow, RunRow

COUNTERS = ("fetched", "inserted", "updated", "unchanged", "deduplicated", "rejected", "blank", "bytes")


class CountersSchema(Schema):
    """What became of the items. fetched = inserted + updated + unchanged + deduplicated + rejected, always."""

    pages = fields.Integer()
    fetched = fields.Integer(metadata={"description": "Items read."})
    inserted = fields.Integer(metadata={"description": "New quotes."})
    updated = fields.Integer(metadata={"description": "Quotes that a later fetch corrected."})
    unchanged = fields.Integer(
        metadata={"description": "Quotes that were there already, or that would expire at once."}
    )
    deduplicated = fields.Integer(metadata={"description": "Items that came twice in one page."})
    rejected = fields.Integer(metadata={"description": "Items that could not become a quote."})
    blank = fields.Integer(metadata={"description": "Rows with nothing in them; not items."})
    bytes = fields.Integer(metadata={"description": "Size of the bodies received."})


class ErrorSchema(Schema):
    """Why a run failed."""

    code = fields.String(metadata={"examples": ["upstream_unavailable"]})
    detail = fields.String(allow_none=True)


class RunSchema(Schema):
    """One ingestion of one source."""

    id = fields.UUID(metadata={"description": "Also the Celery task's id, and on every row and log line of the run."})
    source = fields.String(metadata={"examples": ["coingecko"]})
    kind = fields.String(metadata={"enum": list(RUN_KINDS)})
    status = fields.String(metadata={"enum": list(RUN_STATUSES)})
    parameters = fields.Dict(metadata={"examples": [{"full_refresh": True}]})
    scheduled_for = Instant(allow_none=True, metadata={"description": "The schedule's slot; null where someone asked."})
    requested_by = fields.String(metadata={"examples": ["api"]})
    requested_at = Instant()
    started_at = Instant(allow_none=True)
    finished_at = Instant(allow_none=True)
    duration_seconds = fields.Float(
        allow_none=True, metadata={"description": "From its start to its end, or until now."}
    )
    attempts = fields.Integer(metadata={"description": "Starts since the last committed page."})
    next_attempt_at = Instant(allow_none=True)
    waiting_reason = fields.String(allow_none=True)
    cancel_requested = fields.Boolean()
    error = fields.Nested(ErrorSchema, allow_none=True)
    counters = fields.Nested(CountersSchema, metadata={"description": "The sums over its pages."})


class RunAnswer(Envelope, RunSchema):
    """One run."""

    anomalies = fields.List(
        fields.Nested(AnomalySchema),
        metadata={"description": "What was out of the ordinary; said soon after a live run has ended."},
    )


def run_response(connection: Connection, run: str) -> dict[str, Any]:
    """As RunAnswer has it; raises a Problem where there is none."""
    return {**dump_run(find_run(connection, run)), "anomalies": run_anomalies(connection, [run_id(run)])}


def with_counters(runs: Select[Any]) -> Select[Any]:
    """The runs, in their order, each with the sums over its pages and the time it has taken."""
    run = runs.subquery("run")
    summed = [func.coalesce(func.sum(PageRow.__table__.c[name]), 0).label(name) for name in COUNTERS]
    pages = select(func.count().label("pages"), *summed).where(PageRow.run == run.c.id).lateral("counters")
    until = func.coalesce(run.c.finished_at, func.clock_timestamp())
    duration = func.extract("epoch", until - run.c.started_at).label("duration_seconds")
    return select(run, duration, pages).join(pages, true()).order_by(run.c.requested_at.desc(), run.c.id.desc())


def dump_run(run: Row[Any]) -> Any:
    error = {"code": run.error_code, "detail": run.error_detail} if run.error_code else None
    duration = None if run.duration_seconds is None else round(run.duration_seconds, 3)
    counters = {name: run._mapping[name] for name in ("pages", *COUNTERS)}
    return RunSchema().dump({**run._mapping, "duration_seconds": duration, "error": error, "counters": counters})


def find_run(connection: Connection, run: str) -> Row[Any]:
    found = connection.execute(with_counters(select(RunRow).where(RunRow.id == run_id(run)))).one_or_none()
    if found is None:
        raise Problem(Code.UNKNOWN_RUN, f"There is no run {run}.")
    return found


def run_id(run: str) -> UUID:
    try:
        return UUID(run)
    except ValueError:
        raise Problem(Code.UNKNOWN_RUN, f"{quoted(run)} is no run: a run's id is a UUID.") from None
