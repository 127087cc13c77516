"""Serve /metrics for Prometheus: figures read from the database at each scrape, and this server's request times."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

import structlog
from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from app.runs.dropped_schemas import count_dropped_values
from app.status.health import oldest_queued_age, read_heartbeats
from app.web.arguments import Resource
from app.web.context import context, read_connection
from app.web.envelope import route
from store.tables import OUTCOMES, PageRow, SourceRow
from tasks.upstream.circuit_breaker import read_breakers

log = structlog.get_logger(__name__)

METHODS = ("GET", "HEAD", "OPTIONS", "POST")

# Do not use the default registry: with several processes, the samples come from files, not from this process's memory.
REQUEST_REGISTRY = CollectorRegistry()
REQUESTS = Histogram(
    "kasparro_http_request_seconds",
    "Seconds from a request's arrival to its response on this server, as a histogram.",
    ("method", "route", "status"),
    registry=REQUEST_REGISTRY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)

blueprint = Resource("metrics", __name__, url_prefix="/metrics", description="Metrics for Prometheus.")


def install(app: Flask) -> None:
    """Measure the time of every request."""
    app.after_request(_observe_request)


def _observe_request(response: Response) -> Response:
    method = request.method if request.method in METHODS else "other"
    REQUESTS.labels(method, route(), str(response.status_code)).observe(time.perf_counter() - g.started)
    return response


@blueprint.route("")
@blueprint.without_query
@blueprint.response(200, {"type": "string"}, content_type="text/plain", description="Prometheus text format.")
@blueprint.doc(operationId="getMetrics")
def get_metrics() -> Response:
    """Get metrics for Prometheus

    All metrics except the request times are read from the database at each scrape. They are absent while the database
    does not respond; `kasparro_database_up` is then 0. Request times cover all processes of this server.
    """
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)
    else:
        registry.register(_RequestTimeCollector())
    registry.register(_DatabaseCollector())
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _RequestTimeCollector(Collector):
    def collect(self) -> Iterable[Metric]:
        return REQUEST_REGISTRY.collect()


class _DatabaseCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "kasparro_database_up",
            "1 if the database responds; otherwise 0, and all metrics except the request times are absent.",
        )
        try:
            with read_connection() as connection:
                families = [family for collect in _COLLECTORS for family in collect(connection)]
        except SQLAlchemyError as error:
            log.warning("metrics_degraded", reason=type(error).__name__)
            families = []
        up.add_metric([], 1 if families else 0)
        yield up
        yield from families


def _runs(connection: Connection) -> Iterator[Metric]:
    runs = GaugeMetricFamily("kasparro_runs", "Number of runs.", labels=("source", "status"))
    for source, status, count in connection.execute(text("SELECT source, status, count(*) FROM runs GROUP BY 1, 2")):
        runs.add_metric([source, status], count)
    yield runs


def _pages_and_rows(connection: Connection) -> Iterator[Metric]:
    rows = CounterMetricFamily(
        "kasparro_rows",
        "Items by outcome: inserted, updated, unchanged, superseded, deduplicated, rejected or left_out.",
        labels=("source", "outcome"),
    )
    pages = CounterMetricFamily("kasparro_pages", "Committed pages.", labels=("source",))
    sums = [func.sum(PageRow.__table__.c[outcome]).label(outcome) for outcome in OUTCOMES]
    for row in connection.execute(select(PageRow.source, func.count().label("pages"), *sums).group_by(PageRow.source)):
        pages.add_metric([row.source], row.pages)
        for outcome in OUTCOMES:
            rows.add_metric([row.source, outcome], row._mapping[outcome])
    yield from (pages, rows)


def _dropped_values(connection: Connection) -> Iterator[Metric]:
    dropped = CounterMetricFamily(
        "kasparro_dropped_values",
        "Invalid values that became null, although their items became quotes.",
        labels=("source", "field", "code"),
    )
    for row in count_dropped_values(connection):
        dropped.add_metric([row["source"], row["field"], row["code"]], row["count"])
    yield dropped


def _anomalies(connection: Connection) -> Iterator[Metric]:
    anomalies = CounterMetricFamily("kasparro_anomalies", "Detected anomalies.", labels=("source", "kind"))
    for source, kind, count in connection.execute(
        text("SELECT source, kind, count(*) FROM anomalies GROUP BY 1, 2 ORDER BY 1, 2")
    ):
        anomalies.add_metric([source, kind], count)
    yield anomalies


def _deleted(connection: Connection) -> Iterator[Metric]:
    deleted = CounterMetricFamily(
        "kasparro_deleted", "Quotes and raw bodies that retention or a full refresh deleted.", labels=("source", "kind")
    )
    for row in connection.execute(select(SourceRow.name, SourceRow.quotes_deleted, SourceRow.bodies_deleted)):
        deleted.add_metric([row.name, "quotes"], row.quotes_deleted)
        deleted.add_metric([row.name, "bodies"], row.bodies_deleted)
    yield deleted


def _lag(connection: Connection) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "kasparro_source_lag_seconds",
        "Seconds since the source's last succeeded or partial live run ended; absent before the first.",
        labels=("source",),
    )
    query = text("""
        SELECT source, extract(epoch FROM service_time() - max(finished_at))::float8
          FROM runs WHERE kind = 'live' AND status IN ('succeeded', 'partial') GROUP BY source
    """)
    for source, seconds in connection.execute(query):
        lag.add_metric([source], seconds)
    yield lag


def _breakers(connection: Connection) -> Iterator[Metric]:
    breakers = GaugeMetricFamily(
        "kasparro_breaker_open",
        "1 while the circuit breaker of the source's host is open or half-open, otherwise 0.",
        labels=("source",),
    )
    for source, breaker in read_breakers(connection, context().settings).items():
        breakers.add_metric([source], breaker.state != "closed")
    yield breakers


def _oldest_queued_run(connection: Connection) -> Iterator[Metric]:
    age = GaugeMetricFamily(
        "kasparro_oldest_queued_run_seconds",
        "Seconds since the oldest run that no worker has started became due.",
    )
    age.add_metric([], oldest_queued_age(connection) or 0.0)
    yield age


def _heartbeats(connection: Connection) -> Iterator[Metric]:
    ages = GaugeMetricFamily(
        "kasparro_heartbeat_age_seconds",
        "Seconds since the last heartbeat of a worker, control or beat.",
        labels=("part",),
    )
    for part, (_, age) in read_heartbeats(connection).items():
        ages.add_metric([part], age)
    yield ages


def _clock(connection: Connection) -> Iterator[Metric]:
    ahead = GaugeMetricFamily(
        "kasparro_clock_ahead_seconds",
        "Seconds by which the service's clock is ahead of Postgres's clock, after that clock went back; otherwise 0.",
    )
    lag = GaugeMetricFamily(
        "kasparro_watermark_lag_seconds",
        "Seconds by which `ingested_until` is behind. An open transaction of a worker holds it back.",
    )
    until = context().watermark.ingested_until(connection)
    query = text("SELECT clock_ahead(clock_timestamp()), extract(epoch FROM service_time() - :until)::float8")
    seconds_ahead, seconds_behind = connection.execute(query, {"until": until}).one()
    ahead.add_metric([], seconds_ahead)
    lag.add_metric([], seconds_behind)
    yield from (ahead, lag)


_COLLECTORS = (
    _runs,
    _pages_and_rows,
    _dropped_values,
    _anomalies,
    _deleted,
    _lag,
    _breakers,
    _oldest_queued_run,
    _heartbeats,
    _clock,
)
