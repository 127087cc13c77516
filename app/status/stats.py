"""/stats: what was done with every item, whether the sums come out, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import Connection, func, select, text

from app.runs.anomaly_schemas import late_anomalies
from app.runs.schemas import COUNTERS, CountersSchema
from app.sources.run_history import LAST_FAILURE, LAST_SUCCESS, LIVE_RUN, run_histories
from app.web.arguments import Envelope, Resource
from app.web.context import read_connection
from app.web.row_estimates import RowEstimate
from sources.registry import SOURCES
from store.tables import RUN_STATUSES, PageRow, QuoteRow, RunRow, SourceRow

ALL_QUOTES = RowEstimate(select(QuoteRow.listing_id))

RECENT = 100
"""The durations are of so many of a source's last finished runs."""

ACCOUNTED = ("inserted", "updated", "unchanged", "deduplicated", "rejected")

blueprint = Resource(
    "stats", __name__, url_prefix="/stats", description="What was done, and whether the sums come out."
)


class ConservationSchema(Schema):
    """No item is lost: fetched = inserted + updated + unchanged + deduplicated + rejected."""

    fetched = fields.Integer()
    accounted = fields.Integer()
    holds = fields.Boolean()


class DurationsSchema(Schema):
    last_seconds = fields.Float(allow_none=True)
    average_seconds = fields.Float(allow_none=True)
    p95_seconds = fields.Float(allow_none=True)


COUNTED = fields.Nested(CountersSchema)
CONSERVED = fields.Nested(ConservationSchema)
BY_STATUS = fields.Dict(
    keys=fields.String(),
    values=fields.Integer(),
    metadata={"description": "By status.", "examples": [dict.fromkeys(RUN_STATUSES, 0)]},
)


class SourceStatsSchema(Schema):
    """One source's sums."""

    source = fields.String()
    counters = COUNTED
    conservation = CONSERVED
    runs = BY_STATUS
    durations = fields.Nested(DurationsSchema, metadata={"description": f"Of its last {RECENT} live runs that ended."})
    anomalies_24h = fields.Integer(metadata={"description": "Found within a day; GET /anomalies lists them."})
    last_success = LAST_SUCCESS
    last_failure = LAST_FAILURE
    live_run = LIVE_RUN


class OverAllSchema(Schema):
    """The sums over all sources."""

    counters = COUNTED
    conservation = CONSERVED
    runs = BY_STATUS
    quotes_estimate = fields.Integer(
        metadata={"description": "Quotes there are, counted while they are few, then as the planner estimates."}
    )
    anomalies_24h = fields.Integer()


class StatsAnswer(Envelope):
    total = fields.Nested(OverAllSchema)
    sources = fields.List(fields.Nested(SourceStatsSchema))


@blueprint.route("")
@blueprint.without_query
@blueprint.response(200, StatsAnswer)
@blueprint.doc(operationId="getStats")
def get_stats() -> Response:
    """What was done, per source and over all

    The counters are the sums over all pages ever committed. `conservation.holds` says that every item fetched became a
    quote, was one already, or is a reject.
    """
    with read_connection() as connection:
        names = list(SOURCES) + [
            name for name in connection.scalars(select(SourceRow.name).order_by(SourceRow.name)) if name not in SOURCES
        ]
        counters = _counters(connection)
        runs = _runs(connection)
        durations = _durations(connection, names)
        history = run_histories(connection, names)
        anomalies = late_anomalies(connection)
        quotes, _ = ALL_QUOTES.estimate_or_count(connection, {})
    sources = [
        {
            "source": name,
            **_sums([counters.get(name, {})], [runs.get(name, {})]),
            "durations": durations[name],
            "anomalies_24h": anomalies.get(name, 0),
            **history[name],
        }
        for name in names
    ]
    total = {**_sums(counters.values(), runs.values()), "quotes_estimate": quotes}
    total["anomalies_24h"] = sum(anomalies.values())
    return jsonify(StatsAnswer().dump({"total": total, "sources": sources}))


def _sums(counters: Iterable[Mapping[str, int]], runs: Iterable[Mapping[str, int]]) -> dict[str, Any]:
    counters, runs = list(counters), list(runs)
    summed = {name: sum(each.get(name, 0) for each in counters) for name in ("pages", *COUNTERS)}
    accounted = sum(summed[name] for name in ACCOUNTED)
    return {
        "counters": summed,
        "conservation": {"fetched": summed["fetched"], "accounted": accounted, "holds": summed["fetched"] == accounted},
        "runs": {status: sum(each.get(status, 0) for each in runs) for status in RUN_STATUSES},
    }


def _counters(connection: Connection) -> dict[str, dict[str, int]]:
    summed = [func.sum(PageRow.__table__.c[name]).label(name) for name in COUNTERS]
    rows = connection.execute(select(PageRow.source, func.count().label("pages"), *summed).group_by(PageRow.source))
    return {row.source: {name: int(row._mapping[name]) for name in ("pages", *COUNTERS)} for row in rows}


def _runs(connection: Connection) -> dict[str, dict[str, int]]:
    by_source: dict[str, dict[str, int]] = {}
    for source, status, count in connection.execute(
        select(RunRow.source, RunRow.status, func.count()).group_by(RunRow.source, RunRow.status)
    ):
        by_source.setdefault(source, {})[status] = count
    return by_source


def _durations(connection: Connection, names: list[str]) -> dict[str, dict[str, float | None]]:
    rows = connection.execute(
        text("""
            SELECT wanted.name, round((array_agg(took ORDER BY requested_at DESC))[1]::numeric, 3) AS last_seconds,
                   round(avg(took)::numeric, 3) AS average_seconds,
                   round(percentile_cont(0.95) WITHIN GROUP (ORDER BY took)::numeric, 3) AS p95_seconds
              FROM unnest(CAST(:names AS text[])) AS wanted(name)
              LEFT JOIN LATERAL (SELECT requested_at, extract(epoch FROM finished_at - started_at) AS took
                                   FROM runs
                                  WHERE source = wanted.name AND kind = 'live'
                                    AND started_at IS NOT NULL AND finished_at IS NOT NULL
                                  ORDER BY requested_at DESC LIMIT :recent) AS run ON true
             GROUP BY wanted.name
        """),
        {"names": names, "recent": RECENT},
    )
    return {
        row.name: {
            "last_seconds": row.last_seconds,
            "average_seconds": row.average_seconds,
            "p95_seconds": row.p95_seconds,
        }
        for row in rows
    }
