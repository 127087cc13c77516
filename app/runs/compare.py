"""Serve /runs/compare: compare two runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import Connection, TextClause, text

from app.quotes.run_bounds import find_run_bounds
from app.runs.anomaly_schemas import AnomalySchema, run_anomalies
from app.runs.schemas import COUNTERS, RunSchema, dump_run, find_run
from app.web.arguments import Arguments, Resource
from app.web.context import read_connection
from app.web.envelope import Envelope
from sources.record import VALUE_FIELDS
from tasks.anomalies.figures import NON_NULL_COUNTS

MIN_PRICE_MOVE = math.log(1.5)
"""Prices are reported if the logarithm of their ratio is larger than this, up or down."""

MAX_MOVED_PRICES = 50

blueprint = Resource("compare", __name__, description="Compare two runs.")


class TwoRuns(Arguments):
    """The ids of two runs."""

    a = fields.UUID(
        required=True,
        metadata={"description": "Id of the first run."},
        error_messages={"invalid_uuid": "expected a run's id, a UUID"},
    )
    b = fields.UUID(
        required=True,
        metadata={"description": "Id of the second run."},
        error_messages={"invalid_uuid": "expected a run's id, a UUID"},
    )


class DifferenceSchema(Schema):
    """One figure, for both runs."""

    a = fields.Float(allow_none=True)
    b = fields.Float(allow_none=True)
    difference = fields.Float(allow_none=True, metadata={"description": "b - a; null if either is unknown."})
    ratio = fields.Float(allow_none=True, metadata={"description": "b / a; null if a is 0 or either is unknown."})


class ReasonDifferenceSchema(Schema):
    """How often each run's items were rejected for one reason."""

    field = fields.String()
    code = fields.String()
    a = fields.Integer()
    b = fields.Integer()


class RunDriftSchema(Schema):
    """A field change that first appeared in one of the two runs."""

    run = fields.UUID()
    kind = fields.String()
    field = fields.String()
    became = fields.String(
        allow_none=True,
        metadata={"description": "New type of the field, or new name of a renamed field."},
    )


class MovedPriceSchema(Schema):
    """A listing's newest price in each of the two runs."""

    source_asset_id = fields.String()
    quote_currency = fields.String()
    a = fields.String()
    b = fields.String()
    ratio = fields.Float(metadata={"description": "b / a."})


class RunComparison(Envelope):
    """The comparison of two runs, a and b."""

    a = fields.Nested(RunSchema)
    b = fields.Nested(RunSchema)
    counters = fields.Dict(keys=fields.String(), values=fields.Nested(DifferenceSchema))
    duration_seconds = fields.Nested(DifferenceSchema)
    null_shares = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(DifferenceSchema),
        metadata={"description": "Share of null values among each run's quotes, by field."},
    )
    reject_reasons = fields.List(
        fields.Nested(ReasonDifferenceSchema), metadata={"description": "Number of rejects of each run, by reason."}
    )
    drift = fields.List(
        fields.Nested(RunDriftSchema),
        metadata={"description": "Field changes that first appeared in either run."},
    )
    moved = fields.List(
        fields.Nested(MovedPriceSchema),
        allow_none=True,
        metadata={
            "description": "Prices that rose by more than half, or fell by more than a third, from a to b. "
            f"At most {MAX_MOVED_PRICES}, the largest moves first; null if a run has too many quotes to compare."
        },
    )
    anomalies = fields.List(fields.Nested(AnomalySchema), metadata={"description": "Anomalies of either run."})


@blueprint.route("/runs/compare", tags=["runs"])
@blueprint.arguments(TwoRuns, location="query")
@blueprint.response(200, RunComparison)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="compareRuns")
def compare_runs(arguments: dict[str, Any]) -> Response:
    """Compare two runs

    Compares counters, durations, null values, reject reasons, changed fields, prices and anomalies.
    """
    return _comparison(arguments)


@blueprint.route("/compare-runs", tags=["runs"])
@blueprint.arguments(TwoRuns, location="query")
@blueprint.response(200, RunComparison)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="compareRunsAlias", deprecated=True)
def compare_runs_alias(arguments: dict[str, Any]) -> Response:
    """Compare two runs: deprecated alias of /runs/compare

    Use `/runs/compare` in new clients. This path takes the same parameters and returns the same response.
    """
    return _comparison(arguments)


def _comparison(arguments: Mapping[str, Any]) -> Response:
    runs = [arguments["a"], arguments["b"]]
    with read_connection() as connection:
        a, b = (dump_run(find_run(connection, str(run))) for run in runs)
        comparison = {
            "a": a,
            "b": b,
            "counters": {name: _difference(a["counters"][name], b["counters"][name]) for name in ("pages", *COUNTERS)},
            "duration_seconds": _difference(a["duration_seconds"], b["duration_seconds"]),
            "null_shares": _null_share_differences(connection, runs),
            "reject_reasons": ReasonDifferenceSchema(many=True).dump(_rows(connection, _REJECT_REASONS, runs)),
            "drift": RunDriftSchema(many=True).dump(_rows(connection, _DRIFT, runs)),
            "moved": _moved_prices(connection, runs),
            "anomalies": run_anomalies(connection, runs),
        }
    return jsonify(comparison)


def _rows(connection: Connection, query: TextClause, runs: Sequence[UUID], **parameters: Any) -> Sequence[Any]:
    return connection.execute(query, {"a": runs[0], "b": runs[1], **parameters}).mappings().all()


def _difference(a: float | None, b: float | None) -> dict[str, float | None]:
    """Return the members of DifferenceSchema."""
    if a is None or b is None:
        return {"a": a, "b": b, "difference": None, "ratio": None}
    return {"a": a, "b": b, "difference": round(b - a, 6), "ratio": round(b / a, 6) if a else None}


def _null_share_differences(connection: Connection, runs: Sequence[UUID]) -> dict[str, dict[str, float | None]]:
    a, b = (_null_shares(connection, run) for run in runs)
    return {name: _difference(a.get(name), b.get(name)) for name in sorted({**a, **b})}


def _null_shares(connection: Connection, run: UUID) -> dict[str, float]:
    """Return the share of null values among the run's quotes, by field; empty if the run has no quotes."""
    filled = {row.name: row.quotes for row in connection.execute(NON_NULL_COUNTS, {"run": run})}
    # Every quote has a price.
    quotes = filled.get("price")
    return {name: round(1 - float(filled.get(name, 0) / quotes), 6) for name in VALUE_FIELDS} if quotes else {}


def _moved_prices(connection: Connection, runs: Sequence[UUID]) -> Any:
    """Return the members of MovedPriceSchema, or None if either run has too many quotes to compare."""
    if not all(find_run_bounds(connection, run).is_small for run in runs):
        return None
    rows = _rows(connection, _MOVED_PRICES, runs, min_move=MIN_PRICE_MOVE, max_rows=MAX_MOVED_PRICES)
    return MovedPriceSchema(many=True).dump(rows)


_REJECT_REASONS = text("""
    SELECT reason->>'field' AS field, reason->>'code' AS code,
           count(*) FILTER (WHERE p.run = :a) AS a, count(*) FILTER (WHERE p.run = :b) AS b
      FROM pages AS p JOIN rejects AS r ON r.source = p.source AND r.digest = p.body_digest,
           LATERAL jsonb_array_elements(r.reasons) AS reason
     WHERE p.run IN (:a, :b) AND p.rejected > 0 GROUP BY 1, 2 ORDER BY 1, 2
""")

_DRIFT = text("SELECT run, kind, field, became FROM drift WHERE run IN (:a, :b) ORDER BY id")

# A quote that a later run corrected counts for the later run only.
_MOVED_PRICES = text("""
    WITH newest AS (
        SELECT DISTINCT ON (q.run, q.listing_id) q.run, q.listing_id, q.price
          FROM runs JOIN quotes AS q ON q.run = runs.id
           AND q.ingested_at BETWEEN runs.started_at AND coalesce(runs.finished_at, service_time())
         WHERE runs.id IN (:a, :b) ORDER BY q.run, q.listing_id, q.observed_at DESC)
    SELECT source_asset_id, quote_currency, a.price::text AS a, b.price::text AS b, (b.price / a.price)::float8 AS ratio
      FROM newest AS a JOIN newest AS b ON b.listing_id = a.listing_id AND b.run = :b
      JOIN listings ON listings.id = a.listing_id
     WHERE a.run = :a AND abs(ln(b.price / a.price)) > :min_move
     ORDER BY abs(ln(b.price / a.price)) DESC, source_asset_id LIMIT :max_rows
""")
