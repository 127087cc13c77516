"""Serve /stats: counters, run statuses, durations and the conservation check, for each source and in total."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import Connection, func, select, text

from app.runs.anomaly_schemas import recent_anomaly_counts
from app.runs.schemas import COUNTERS, CountersSchema
from app.sources.run_history import LAST_FAILURE, LAST_SUCCESS, LIVE_RUN, run_histories
from app.web.arguments import Resource
from app.web.context import read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from app.web.row_estimates import RowEstimate
from sources.registry import BROKEN, SOURCES
from store.tables import OUTCOMES, RUN_STATUSES, IntegrityRow, PageRow, QuoteRow, RunRow, SourceRow

ALL_QUOTES = RowEstimate(select(QuoteRow.listing_id))

MAX_MEASURED_RUNS = 100
"""Number of a source's last finished runs that the durations cover."""

blueprint = Resource("stats", __name__, url_prefix="/stats", description="Counters, run statuses and durations.")


class ConservationSchema(Schema):
    """Whether every item has an outcome.

    fetched = inserted + updated + unchanged + superseded + deduplicated + rejected + left_out.
    """

    fetched = fields.Integer(metadata={"description": "Number of items read."})
    accounted = fields.Integer(metadata={"description": "Number of items with an outcome."})
    holds = fields.Boolean(metadata={"description": "Whether the two numbers are equal."})


class DurationsSchema(Schema):
    """The durations of runs."""

    last_seconds = fields.Float(allow_none=True)
    average_seconds = fields.Float(allow_none=True)
    p95_seconds = fields.Float(allow_none=True)


COUNTERS_FIELD = fields.Nested(CountersSchema)
CONSERVATION_FIELD = fields.Nested(ConservationSchema)
RUNS_FIELD = fields.Dict(
    keys=fields.String(),
    values=fields.Integer(),
    metadata={"description": "Number of runs, by status.", "examples": [dict.fromkeys(RUN_STATUSES, 0)]},
)


class SourceStatsSchema(Schema):
    """The statistics of one source."""

    source = fields.String()
    counters = COUNTERS_FIELD
    conservation = CONSERVATION_FIELD
    runs = RUNS_FIELD
    durations = fields.Nested(
        DurationsSchema, metadata={"description": f"Durations of the last {MAX_MEASURED_RUNS} finished live runs."}
    )
    anomalies_24h = fields.Integer(
        metadata={"description": "Anomalies detected in the last 24 hours. `GET /anomalies` lists them."}
    )
    last_success = LAST_SUCCESS
    last_failure = LAST_FAILURE
    live_run = LIVE_RUN


class TotalStatsSchema(Schema):
    """The statistics of all sources together."""

    counters = COUNTERS_FIELD
    conservation = CONSERVATION_FIELD
    runs = RUNS_FIELD
    quotes_estimate = fields.Integer(
        metadata={"description": "Number of quotes: an exact count if there are few, otherwise the planner's estimate."}
    )
    anomalies_24h = fields.Integer()


class IntegritySchema(Schema):
    """The result of the last complete pass of one integrity check."""

    check = fields.String(attribute="name")
    violations = fields.Integer(
        allow_none=True, metadata={"description": "Number of violations; null before the first complete pass."}
    )
    example = fields.String(attribute="last_example", allow_none=True)
    completed_at = Instant(allow_none=True, metadata={"description": "End of the last complete pass."})


class StatsResponse(Envelope):
    """The statistics of every source and in total."""

    total = fields.Nested(TotalStatsSchema)
    sources = fields.List(fields.Nested(SourceStatsSchema))
    integrity = fields.List(
        fields.Nested(IntegritySchema),
        metadata={"description": "Integrity checks of the stored data, which run continuously."},
    )


@blueprint.route("")
@blueprint.without_query
@blueprint.response(200, StatsResponse)
@blueprint.doc(operationId="getStats")
def get_stats() -> Response:
    """Get statistics for each source and in total

    The counters are sums over all committed pages. `conservation.holds` is true if every item has an outcome, such as
    `inserted` or `rejected`.
    """
    with read_connection() as connection:
        names = _source_names(connection)
        counters = _counters(connection)
        runs = _runs(connection)
        durations = _durations(connection, names)
        histories = run_histories(connection, names)
        anomalies = recent_anomaly_counts(connection)
        integrity = connection.execute(select(IntegrityRow).order_by(IntegrityRow.name)).all()
        quotes, _ = ALL_QUOTES.estimate_or_count(connection, {})
    sources = [
        {
            "source": name,
            **_sums([counters.get(name, {})], [runs.get(name, {})]),
            "durations": durations[name],
            "anomalies_24h": anomalies.get(name, 0),
            **histories[name],
        }
        for name in names
    ]
    total = {**_sums(counters.values(), runs.values()), "quotes_estimate": quotes}
    total["anomalies_24h"] = sum(anomalies.values())
    return jsonify(StatsResponse().dump({"total": total, "sources": sources, "integrity": integrity}))


def _source_names(connection: Connection) -> list[str]:
    """Return the registered sources, followed by unregistered sources that have data."""
    stored = connection.scalars(select(SourceRow.name).order_by(SourceRow.name))
    registered = [*SOURCES, *BROKEN]
    return [*registered, *(name for name in stored if name not in registered)]


def _sums(counters: Iterable[Mapping[str, int]], runs: Iterable[Mapping[str, int]]) -> dict[str, Any]:
    """Return counters, conservation and runs, summed over sources."""
    counters, runs = list(counters), list(runs)
    sums = {name: sum(source.get(name, 0) for source in counters) for name in ("pages", *COUNTERS)}
    accounted = sum(sums[name] for name in OUTCOMES)
    return {
        "counters": sums,
        "conservation": {"fetched": sums["fetched"], "accounted": accounted, "holds": sums["fetched"] == accounted},
        "runs": {status: sum(source.get(status, 0) for source in runs) for status in RUN_STATUSES},
    }


def _counters(connection: Connection) -> dict[str, dict[str, int]]:
    """Return the sums of each counter over all pages, by source."""
    sums = [func.sum(PageRow.__table__.c[name]).label(name) for name in COUNTERS]
    rows = connection.execute(select(PageRow.source, func.count().label("pages"), *sums).group_by(PageRow.source))
    return {row.source: {name: int(row._mapping[name]) for name in ("pages", *COUNTERS)} for row in rows}


def _runs(connection: Connection) -> dict[str, dict[str, int]]:
    """Return the number of runs by source and status."""
    by_source: dict[str, dict[str, int]] = {}
    for source, status, count in connection.execute(
        select(RunRow.source, RunRow.status, func.count()).group_by(RunRow.source, RunRow.status)
    ):
        by_source.setdefault(source, {})[status] = count
    return by_source


def _durations(connection: Connection, names: list[str]) -> dict[str, dict[str, float | None]]:
    """Return last_seconds, average_seconds and p95_seconds of recent live runs by source; None if there are none."""
    rows = connection.execute(
        text("""
            SELECT listed.name, round((array_agg(seconds ORDER BY requested_at DESC))[1]::numeric, 3) AS last_seconds,
                   round(avg(seconds)::numeric, 3) AS average_seconds,
                   round(percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds)::numeric, 3) AS p95_seconds
              FROM unnest(CAST(:names AS text[])) AS listed(name)
              LEFT JOIN LATERAL (SELECT requested_at, extract(epoch FROM finished_at - started_at) AS seconds
                                   FROM runs
                                  WHERE source = listed.name AND kind = 'live'
                                    AND started_at IS NOT NULL AND finished_at IS NOT NULL
                                  ORDER BY requested_at DESC LIMIT :max_runs) AS run ON true
             GROUP BY listed.name
        """),
        {"names": names, "max_runs": MAX_MEASURED_RUNS},
    )
    return {
        row.name: {
            "last_seconds": row.last_seconds,
            "average_seconds": row.average_seconds,
            "p95_seconds": row.p95_seconds,
        }
        for row in rows
    }
