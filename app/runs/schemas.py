"""Define how a run appears in responses: its row, the sums over its pages, and its duration."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from marshmallow import Schema, fields
from sqlalchemy import Connection, Row, Select, func, select, true

from app.runs.anomaly_schemas import AnomalySchema, run_anomalies
from app.runs.dropped_schemas import DroppedValuesSchema, count_dropped_values
from app.sources.waiting_records import WAITING_RECORDS, waiting_records
from app.web.envelope import Envelope
from app.web.formats import Instant, instant
from app.web.problems import Code, Problem, quoted
from store.tables import OUTCOMES, RUN_KINDS, RUN_STATUSES, PageRow, RunRow

COUNTERS = ("fetched", *OUTCOMES, "blank", "conflicting", "bytes")


class CountersSchema(Schema):
    """Counts of items by outcome.

    fetched = inserted + updated + unchanged + superseded + deduplicated + rejected + left_out, always.
    """

    pages = fields.Integer(metadata={"description": "Committed pages."})
    fetched = fields.Integer(metadata={"description": "Items read."})
    inserted = fields.Integer(metadata={"description": "New quotes."})
    updated = fields.Integer(metadata={"description": "Existing quotes that were corrected."})
    unchanged = fields.Integer(
        metadata={"description": "Quotes that already existed, or that retention would delete immediately."}
    )
    superseded = fields.Integer(
        metadata={
            "description": "Quotes that differ from stored quotes but do not replace them: the stored quotes were "
            "fetched later, or the run does not correct quotes."
        }
    )
    deduplicated = fields.Integer(metadata={"description": "Duplicate items within one page."})
    rejected = fields.Integer(metadata={"description": "Items that could not become a quote."})
    left_out = fields.Integer(
        metadata={"description": "Items that the source does not load, such as hourly prices in a daily backfill."}
    )
    blank = fields.Integer(metadata={"description": "Empty rows; they do not count as items."})
    conflicting = fields.Integer(
        metadata={
            "description": "Items, counted above, whose values differ from another item of the run with the same "
            "listing and time. The later item is used."
        }
    )
    bytes = fields.Integer(metadata={"description": "Size of the received bodies, in bytes."})


class ConflictSchema(Schema):
    """Two items of a run with the same listing and time, but other values."""

    source_asset_id = fields.String()
    quote_currency = fields.String()
    observed_at = Instant()
    values = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String(allow_none=True)),
        metadata={
            "description": "By field, the earlier and the later value. The later value is used.",
            "examples": [{"price": ["61500", "62000"]}],
        },
    )


class ErrorSchema(Schema):
    """Why a run failed, or is partial. Null if only some items were rejected."""

    code = fields.String(metadata={"examples": ["upstream_unavailable"]})
    detail = fields.String(allow_none=True)


class MissingQuoteSchema(Schema):
    """A stored quote that no record yields any longer, and where it came from."""

    source_asset_id = fields.String()
    quote_currency = fields.String()
    observed_at = fields.Function(
        lambda quote: instant(datetime.fromisoformat(quote["observed_at"])),
        metadata={"type": "string", "format": "date-time"},
    )
    price = fields.String(metadata={"examples": ["93340.5"]})
    run = fields.UUID(allow_none=True, metadata={"description": "The run that wrote the quote; null if unknown."})
    partition = fields.String(allow_none=True)
    page = fields.Integer(allow_none=True, metadata={"description": "Number of the page in its run and partition."})
    file = fields.String(allow_none=True)
    line = fields.Integer(allow_none=True, metadata={"description": "First line of the record that it came from."})


class RetractionSchema(Schema):
    """The comparison of the stored quotes with the files, in a full refresh of a source with `replaces`."""

    compared = fields.Integer(metadata={"description": "Stored quotes that were compared with the files so far."})
    missing = fields.Integer(metadata={"description": "Quotes among them that are in none of the files."})
    deleted = fields.Integer(metadata={"description": "Missing quotes that the run has deleted; 0 in a dry run."})
    samples = fields.List(
        fields.Nested(MissingQuoteSchema), metadata={"description": "The first missing quotes, before deletion."}
    )


class RunSchema(Schema):
    """One ingestion of one source."""

    id = fields.UUID(
        metadata={"description": "Also the id of the Celery task. Every row and log line of the run has this id."}
    )
    source = fields.String(metadata={"examples": ["coingecko"]})
    kind = fields.String(metadata={"enum": list(RUN_KINDS)})
    status = fields.String(metadata={"enum": list(RUN_STATUSES)})
    parameters = fields.Dict(metadata={"examples": [{"full_refresh": True}]})
    scheduled_for = Instant(
        allow_none=True,
        metadata={"description": "The scheduled slot; null for a run that the schedule did not request."},
    )
    after_run = fields.UUID(
        allow_none=True, metadata={"description": "Id of the run that must end before this one starts; usually null."}
    )
    requested_by = fields.String(metadata={"examples": ["api"]})
    requested_at = Instant()
    started_at = Instant(allow_none=True)
    finished_at = Instant(allow_none=True)
    duration_seconds = fields.Float(
        allow_none=True,
        metadata={"description": "Seconds from the start to the end, or to now; null before the start."},
    )
    attempts = fields.Integer(metadata={"description": "Number of starts since the last committed page."})
    next_attempt_at = Instant(allow_none=True)
    waiting_reason = fields.String(allow_none=True)
    cancel_requested = fields.Boolean()
    error = fields.Nested(ErrorSchema, allow_none=True)
    counters = fields.Nested(CountersSchema, metadata={"description": "Sums over the run's pages."})
    retraction = fields.Nested(
        RetractionSchema,
        allow_none=True,
        metadata={"description": "Null, except for a full refresh of a source with `replaces` that read all files."},
    )


class RequestedRunSchema(RunSchema):
    """The run that a request created or joined."""

    joined = fields.Boolean(
        metadata={
            "description": "Whether the run existed before the request. Such a run may have read the source before it "
            "changed; use `after` to queue another run."
        }
    )


class RunResponse(Envelope, RunSchema):
    """One run."""

    anomalies = fields.List(
        fields.Nested(AnomalySchema),
        metadata={"description": "Anomalies of the run. A live run is checked within seconds of its end."},
    )
    waiting_records = WAITING_RECORDS
    first_conflict = fields.Nested(
        ConflictSchema, allow_none=True, metadata={"description": "The first conflict; null without conflicts."}
    )
    dropped_values = fields.List(
        fields.Nested(DroppedValuesSchema),
        metadata={"description": "The invalid values that became null, by field and code. Their items became quotes."},
    )


def run_response(connection: Connection, run: str) -> dict[str, Any]:
    """Return the members of RunResponse. Raise a Problem if there is no such run."""
    row = find_run(connection, run)
    waiting = waiting_records(connection, [row.id]).get(row.source, [])
    return {
        **dump_run(row),
        "anomalies": run_anomalies(connection, [row.id]),
        "waiting_records": waiting,
        "first_conflict": _first_conflict(connection, row.id) if row.conflicting else None,
        "dropped_values": DroppedValuesSchema(many=True).dump(count_dropped_values(connection, PageRow.run == row.id)),
    }


def _first_conflict(connection: Connection, run: UUID) -> dict[str, Any] | None:
    first = select(PageRow.conflict).where(PageRow.run == run, PageRow.conflict.is_not(None))
    conflict = connection.scalar(first.order_by(PageRow.committed_at, PageRow.partition, PageRow.seq).limit(1))
    if conflict is None:
        return None
    shown: dict[str, Any] = ConflictSchema().dump(
        {**conflict, "observed_at": datetime.fromisoformat(conflict["observed_at"])}
    )
    return shown


def with_counters(runs: Select[Any]) -> Select[Any]:
    """Return a query for these runs, newest first, each with the sums over its pages and its duration in seconds."""
    run = runs.subquery("run")
    sums = [func.coalesce(func.sum(PageRow.__table__.c[name]), 0).label(name) for name in COUNTERS]
    counters = select(func.count().label("pages"), *sums).where(PageRow.run == run.c.id).lateral("counters")
    end = func.coalesce(run.c.finished_at, func.service_time())
    duration = func.extract("epoch", end - run.c.started_at).label("duration_seconds")
    return select(run, duration, counters).join(counters, true()).order_by(run.c.requested_at.desc(), run.c.id.desc())


def dump_run(run: Row[Any]) -> Any:
    """Return the members of RunSchema for a row of `with_counters`."""
    error = {"code": run.error_code, "detail": run.error_detail} if run.error_code else None
    duration = None if run.duration_seconds is None else round(run.duration_seconds, 3)
    counters = {name: run._mapping[name] for name in ("pages", *COUNTERS)}
    return RunSchema().dump({**run._mapping, "duration_seconds": duration, "error": error, "counters": counters})


def find_run(connection: Connection, run: str) -> Row[Any]:
    """Return the run's row of `with_counters`. Raise a Problem if there is no such run."""
    row = connection.execute(with_counters(select(RunRow).where(RunRow.id == run_id(run)))).one_or_none()
    if row is None:
        raise Problem(Code.UNKNOWN_RUN, f"There is no run {run}.")
    return row


def run_id(run: str) -> UUID:
    """Return the id of the run in a path. Raise a Problem if the id is not a UUID."""
    try:
        return UUID(run)
    except ValueError:
        raise Problem(Code.UNKNOWN_RUN, f"There is no run {quoted(run)}: a run's id is a UUID.") from None
