"""/metrics for Prometheus: the database's truth, read at each scrape, and this service's request times."""

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

from app.status.health import heartbeats, oldest_queued_age
from app.web.arguments import Resource
from app.web.context import context, read_connection
from app.web.envelope import route
from store.tables import PageRow, SourceRow
from tasks.upstream.circuit_breaker import read_breakers

log = structlog.get_logger(__name__)

METHODS = ("GET", "HEAD", "OPTIONS", "POST")

# Not the default registry: under several processes the samples come from files, not from this process's memory.
OWN = CollectorRegistry()
REQUESTS = Histogram(
    "kasparro_http_request_seconds",
    "Time from a request's arrival to its answer.",
    ("method", "route", "status"),
    registry=OWN,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)

blueprint = Resource("metrics", __name__, url_prefix="/metrics", description="For Prometheus.")


def install(app: Flask) -> None:
    app.after_request(_observe)


def _observe(response: Response) -> Response:
    method = request.method if request.method in METHODS else "other"
    REQUESTS.labels(method, route(), str(response.status_code)).observe(time.perf_counter() - g.started)
    return response


@blueprint.route("")
@blueprint.without_query
@blueprint.response(200, {"type": "string"}, content_type="text/plain", description="Prometheus's text format.")
@blueprint.doc(operationId="getMetrics")
def get_metrics() -> Response:
    """Metrics for Prometheus

    Runs, rows, lag and heartbeats are read from the database at each scrape; `kasparro_database_up` is 0, and
    they are absent, while it does not answer. Request times are summed over the processes of this server.
    """
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)
    else:
        registry.register(_RequestTimes())
    registry.register(_Database())
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _RequestTimes(Collector):
    def collect(self) -> Iterable[Metric]:
        return OWN.collect()


class _Database(Collector):
    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("kasparro_database_up", "1 while the database answers.")
        try:
            with read_connection() as connection:
                reads = (_runs, _rows, _anomalies, _dropped, _lag, _breakers, _queued, _beats)
                families = [family for read in reads for family in read(connection)]
        except SQLAlchemyError as error:
            log.warning("metrics_degraded", reason=type(error).__name__)
            families = []
        up.add_metric([], 1 if families else 0)
        yield up
        yield from families


def _runs(connection: Connection) -> Iterator[Metric]:
    runs = GaugeMetricFamily("kasparro_runs", "Runs there are.", labels=("source", "status"))
    for source, status, count in connection.execute(text("SELECT source, status, count(*) FROM runs GROUP BY 1, 2")):
        runs.add_metric([source, status], count)
    yield runs


def _rows(connection: Connection) -> Iterator[Metric]:
    outcomes = ("inserted", "updated", "unchanged", "deduplicated", "rejected")
    rows = CounterMetricFamily(
        "kasparro_rows", "Items of all pages, by what became of them.", labels=("source", "outcome")
    )
    pages = CounterMetricFamily("kasparro_pages", "Pages committed.", labels=("source",))
    sums = [func.sum(PageRow.__table__.c[outcome]).label(outcome) for outcome in outcomes]
    for row in connection.execute(select(PageRow.source, func.count().label("pages"), *sums).group_by(PageRow.source)):
        pages.add_metric([row.source], row.pages)
        for outcome in outcomes:
            rows.add_metric([row.source, outcome], row._mapping[outcome])
    yield from (pages, rows)


def _anomalies(connection: Connection) -> Iterator[Metric]:
    found = CounterMetricFamily("kasparro_anomalies", "What was out of the ordinary.", labels=("source", "kind"))
    for source, kind, count in connection.execute(
        text("SELECT source, kind, count(*) FROM anomalies GROUP BY 1, 2 ORDER BY 1, 2")
    ):
        found.add_metric([source, kind], count)
    yield found


def _dropped(connection: Connection) -> Iterator[Metric]:
    dropped = CounterMetricFamily(
        "kasparro_dropped", "Quotes and raw bodies dropped for their age.", labels=("source", "what")
    )
    for row in connection.execute(select(SourceRow.name, SourceRow.quotes_dropped, SourceRow.bodies_dropped)):
        dropped.add_metric([row.name, "quotes"], row.quotes_dropped)
        dropped.add_metric([row.name, "bodies"], row.bodies_dropped)
    yield dropped


def _lag(connection: Connection) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "kasparro_source_lag_seconds",
        "Seconds since a live run of the source last ended well: succeeded or partial.",
        labels=("source",),
    )
    ended = text("""
        SELECT source, extract(epoch FROM clock_timestamp() - max(finished_at))::float8
          FROM runs WHERE kind = 'live' AND status IN ('succeeded', 'partial') GROUP BY source
    """)
    for source, seconds in connection.execute(ended):
        lag.add_metric([source], seconds)
    yield lag


def _breakers(connection: Connection) -> Iterator[Metric]:
    breakers = GaugeMetricFamily(
        "kasparro_breaker_open",
        "1 while the source's host is left alone, or only tried, since so many requests in a row failed.",
        labels=("source",),
    )
    for source, breaker in read_breakers(connection, context().settings).items():
        breakers.add_metric([source], breaker.state != "closed")
    yield breakers


def _queued(connection: Connection) -> Iterator[Metric]:
    queued = GaugeMetricFamily(
        "kasparro_oldest_queued_run_seconds", "How long the oldest run that no worker took has been due."
    )
    queued.add_metric([], oldest_queued_age(connection) or 0.0)
    yield queued


def _beats(connection: Connection) -> Iterator[Metric]:
    beats = GaugeMetricFamily(
        "kasparro_heartbeat_age_seconds", "Seconds since a part last showed that it works.", labels=("part",)
    )
    for part, (_, age) in heartbeats(connection).items():
        beats.add_metric([part], age)
    yield beats
