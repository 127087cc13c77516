"""/anomalies: what was out of the ordinary, of runs and of sources; and two runs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response, jsonify, request
from marshmallow import Schema, fields
from sqlalchemy import Connection, select, text

from app.quotes.run_bounds import find_run_bounds
from app.runs.anomaly_schemas import KINDS, AnomalySchema, run_anomalies
from app.runs.schemas import COUNTERS, RunSchema, dump_run, find_run
from app.web import pagination
from app.web.arguments import (
    LINK_HEADER,
    Arguments,
    Envelope,
    ListOf,
    OneOf,
    PageArguments,
    Pagination,
    Resource,
    list_response,
    source_name,
)
from app.web.context import read_connection
from app.web.formats import Instant
from sources.record import VALUE_FIELDS
from store.tables import AnomalyRow
from tasks.anomalies.figures import FILLED

MOVED, MOST_MOVED = math.log(1.5), 50
"""A price that moved by more from one run to the other is told, the farthest first."""

AnomalyKey = pagination.BigId

blueprint = Resource(
    "anomalies", __name__, description="What is out of the ordinary: runs that are not like those before them."
)


class AnomalyQuery(PageArguments):
    """Which anomalies."""

    source = ListOf(source_name(), "Only of this source.")
    kind = ListOf(OneOf(KINDS), "Only of this kind.")
    run = fields.UUID(
        metadata={"description": "Only of this run."}, error_messages={"invalid_uuid": "expected a run's id, a UUID"}
    )
    found_from = Instant(metadata={"description": "Found at this time or later."})


class AnomalyPage(Envelope):
    data = fields.List(fields.Nested(AnomalySchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


class TwoRuns(Arguments):
    """Two runs, by their ids."""

    a = fields.UUID(required=True, error_messages={"invalid_uuid": "expected a run's id, a UUID"})
    b = fields.UUID(required=True, error_messages={"invalid_uuid": "expected a run's id, a UUID"})


class DifferenceSchema(Schema):
    """A figure of both. ratio: b to a; null where a is 0."""

    a = fields.Float(allow_none=True)
    b = fields.Float(allow_none=True)
    difference = fields.Float(allow_none=True)
    ratio = fields.Float(allow_none=True)


class ReasonsSchema(Schema):
    field = fields.String()
    code = fields.String()
    a = fields.Integer()
    b = fields.Integer()


class DriftedSchema(Schema):
    run = fields.UUID()
    kind = fields.String()
    field = fields.String()
    became = fields.String(allow_none=True)


class MovedSchema(Schema):
    """A listing's newest price in each of the two runs."""

    source_asset_id = fields.String()
    quote_currency = fields.String()
    a = fields.String()
    b = fields.String()
    ratio = fields.Float()


class Comparison(Envelope):
    a = fields.Nested(RunSchema)
    b = fields.Nested(RunSchema)
    counters = fields.Dict(keys=fields.String(), values=fields.Nested(DifferenceSchema))
    duration_seconds = fields.Nested(DifferenceSchema)
    null_shares = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(DifferenceSchema),
        metadata={"description": "By field, of the quotes of each run, how many do not have it."},
    )
    reject_reasons = fields.List(fields.Nested(ReasonsSchema))
    drift = fields.List(fields.Nested(DriftedSchema), metadata={"description": "Changes of fields that either met."})
    moved = fields.List(
        fields.Nested(MovedSchema),
        metadata={
            "description": f"Prices that are another by half and more, the farthest first, {MOST_MOVED} at most."
        },
    )
    anomalies = fields.List(fields.Nested(AnomalySchema), metadata={"description": "Of either."})


@blueprint.route("/anomalies")
@blueprint.arguments(AnomalyQuery, location="query")
@blueprint.response(200, AnomalyPage, headers=LINK_HEADER)
@blueprint.doc(operationId="listAnomalies")
def list_anomalies(arguments: dict[str, Any]) -> Response:
    """What was out of the ordinary, newest first

    Each live run that ends is held against the last 30 of its source. Nothing is said before there are 8.
    """
    limit = arguments["limit"]
    wanted = select(AnomalyRow).order_by(AnomalyRow.id.desc()).limit(limit + 1)
    for name in ("source", "kind"):
        if name in arguments:
            wanted = wanted.where(getattr(AnomalyRow, name).in_(arguments[name]))
    if "run" in arguments:
        wanted = wanted.where(AnomalyRow.run == arguments["run"])
    if "found_from" in arguments:
        wanted = wanted.where(AnomalyRow.found_at >= arguments["found_from"])
    if "cursor" in arguments:
        wanted = wanted.where(
            AnomalyRow.id < pagination.decode(arguments["cursor"], request.path, arguments, AnomalyKey)
        )
    with read_connection() as connection:
        found = connection.execute(wanted).all()
    following = pagination.encode(request.path, arguments, found[limit - 1].id) if len(found) > limit else None
    return list_response(AnomalySchema(many=True).dump(found[:limit]), limit, following)


@blueprint.route("/runs/compare")
@blueprint.arguments(TwoRuns, location="query")
@blueprint.response(200, Comparison)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="compareRuns")
def compare_runs(arguments: dict[str, Any]) -> Response:
    """Two runs side by side

    What each brought and refused, how long it took, how often its values were null, what changed of the fields, which
    prices moved beyond reason, and what was found to be out of the ordinary.
    """
    return _compared(arguments)


@blueprint.route("/compare-runs")
@blueprint.arguments(TwoRuns, location="query")
@blueprint.response(200, Comparison)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="compareRunsToo")
def compare_runs_too(arguments: dict[str, Any]) -> Response:
    """The same as /runs/compare"""
    return _compared(arguments)


def _compared(arguments: Mapping[str, Any]) -> Response:
    ids = [arguments["a"], arguments["b"]]
    both = dict(zip("ab", ids, strict=True))
    with read_connection() as connection:
        one, other = (dump_run(find_run(connection, str(run))) for run in ids)
        nulls = [_null_shares(connection, run) for run in ids]
        reasons = connection.execute(_REASONS, both).mappings().all()
        drift = connection.execute(_DRIFT, both).mappings().all()
        moved = None
        if all(find_run_bounds(connection, run).is_small for run in ids):
            moved = connection.execute(_MOVED, {**both, "limit": MOVED, "most": MOST_MOVED}).mappings().all()
        anomalies = run_anomalies(connection, ids)
    counters = ("pages", *COUNTERS)
    answer = {
        "a": one,
        "b": other,
        "counters": {name: _difference(one["counters"][name], other["counters"][name]) for name in counters},
        "duration_seconds": _difference(one["duration_seconds"], other["duration_seconds"]),
        "null_shares": {
            name: _difference(*(those.get(name) for those in nulls)) for name in sorted({**nulls[0], **nulls[1]})
        },
        "reject_reasons": ReasonsSchema(many=True).dump(reasons),
        "drift": DriftedSchema(many=True).dump(drift),
        "moved": None if moved is None else MovedSchema(many=True).dump(moved),
        "anomalies": anomalies,
    }
    return jsonify(answer)


def _difference(a: float | None, b: float | None) -> dict[str, float | None]:
    known = a is not None and b is not None
    return {
        "a": a,
        "b": b,
        "difference": round(b - a, 6) if a is not None and b is not None else None,
        "ratio": round(b / a, 6) if a and b is not None and known else None,
    }


def _null_shares(connection: Connection, run: UUID) -> dict[str, float]:
    """By field; none where nothing is known of its pages. Each quote has a price."""
    filled = {row.name: row.quotes for row in connection.execute(FILLED, {"run": run})}
    quotes = filled.get("price")
    return {name: round(1 - float(filled.get(name, 0) / quotes), 6) for name in VALUE_FIELDS} if quotes else {}


_REASONS = text("""
    SELECT reason->>'field' AS field, reason->>'code' AS code,
           count(*) FILTER (WHERE p.run = :a) AS a, count(*) FILTER (WHERE p.run = :b) AS b
      FROM pages AS p JOIN rejects AS r ON r.source = p.source AND r.digest = p.body_digest,
           LATERAL jsonb_array_elements(r.reasons) AS reason
     WHERE p.run IN (:a, :b) AND p.rejected > 0 GROUP BY 1, 2 ORDER BY 1, 2
""")

_DRIFT = text("SELECT run, kind, field, became FROM drift WHERE run IN (:a, :b) ORDER BY id")

# What a run brought in, it may not have any more: another has corrected it. Then nothing is said of it.
_MOVED = text("""
    WITH newest AS (
        SELECT DISTINCT ON (q.run, q.listing_id) q.run, q.listing_id, q.price
          FROM runs JOIN quotes AS q ON q.run = runs.id
           AND q.ingested_at BETWEEN runs.started_at AND coalesce(runs.finished_at, clock_timestamp())
         WHERE runs.id IN (:a, :b) ORDER BY q.run, q.listing_id, q.observed_at DESC)
    SELECT source_asset_id, quote_currency, a.price::text AS a, b.price::text AS b, (b.price / a.price)::float8 AS ratio
      FROM newest AS a JOIN newest AS b ON b.listing_id = a.listing_id AND b.run = :b
      JOIN listings ON listings.id = a.listing_id
     WHERE a.run = :a AND abs(ln(b.price / a.price)) > :limit
     ORDER BY abs(ln(b.price / a.price)) DESC, source_asset_id LIMIT :most
""")
