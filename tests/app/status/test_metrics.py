"""Test that /metrics shows database figures and request times, and that the reference documents each metric."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from tests.app.rows import NOON, Rows
from tests.app.runs.anomaly_rows import insert_anomaly
from tests.processes import ROOT

REFERENCE = ROOT / "docs" / "reference" / "metrics.md"
ROW = re.compile(r"^\| `(?P<name>kasparro_\w+)` \| (?P<labels>[^|]*) \| .+ \|$", re.MULTILINE)

HISTOGRAM_SUFFIXES = ("_bucket", "_count", "_sum", "_created")


def insert_one_of_each(rows: Rows) -> None:
    """Insert rows that give every metric a sample."""
    run = rows.run(finished_at=datetime.now(UTC) - timedelta(hours=1))
    dropped = {"field": "rank", "code": "not_a_rank", "count": 4, "detail": "", "item": ""}
    rows.page(run, inserted=3, rejected=1, recorded={"dropped": [dropped]})
    rows.reject(rows.page(run, 1, body=b"x", rejected=1))
    rows.run(status="queued", requested_at=datetime.now(UTC) - timedelta(minutes=1), started_at=None)
    rows.heartbeat("beat", datetime.now(UTC) - timedelta(seconds=30))
    rows.breaker("coinpaprika", failures=5, opened_at=NOON)
    rows.deleted("csv_history", quotes=7, bodies=2)
    insert_anomaly(rows, run)


def test_metrics_show_the_database_and_request_times(api: FlaskClient, rows: Rows) -> None:
    insert_one_of_each(rows)
    api.get("/runs/not-a-run-at-all")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(api.get("/metrics").text)
        for sample in family.samples
    }
    assert samples["kasparro_database_up",] == 1
    assert samples["kasparro_runs", "coingecko", "succeeded"] == 1
    assert samples["kasparro_rows_total", "coingecko", "inserted"] == 3
    assert samples["kasparro_pages_total", "coingecko"] == 2
    assert samples["kasparro_dropped_values_total", "coingecko", "not_a_rank", "rank"] == 4
    assert samples["kasparro_anomalies_total", "coingecko", "rows"] == 1
    assert samples["kasparro_deleted_total", "csv_history", "quotes"] == 7
    assert samples["kasparro_deleted_total", "bodies", "csv_history"] == 2
    assert samples["kasparro_breaker_open", "coingecko"] == 0
    assert samples["kasparro_breaker_open", "coinpaprika"] == 1
    assert 3600 <= samples["kasparro_source_lag_seconds", "coingecko"] < 3700
    assert 60 <= samples["kasparro_oldest_queued_run_seconds",] < 160
    assert 30 <= samples["kasparro_heartbeat_age_seconds", "beat"] < 130
    assert samples["kasparro_http_request_seconds_count", "/runs/<run>", "404", "GET"] >= 1
    assert not any("not-a-run-at-all" in part for key in samples for part in key)


def served_metrics(text: str) -> Mapping[str, set[str]]:
    """Return the labels of each metric, by name. A histogram counts as one metric."""
    metrics: dict[str, set[str]] = {}
    families = list(text_string_to_metric_families(text))
    histograms = tuple(family.name for family in families if family.type == "histogram")
    for sample in (sample for family in families for sample in family.samples):
        [name] = [
            histogram for histogram in histograms if sample.name.removeprefix(histogram) in HISTOGRAM_SUFFIXES
        ] or [sample.name]
        metrics.setdefault(name, set()).update(sample.labels.keys() - {"le"})
    return metrics


def test_the_reference_documents_exactly_the_metrics_and_labels_that_exist(api: FlaskClient, rows: Rows) -> None:
    insert_one_of_each(rows)
    api.get("/runs")
    documented = {row["name"]: set(re.findall(r"\w+", row["labels"])) for row in ROW.finditer(REFERENCE.read_text())}
    assert documented == served_metrics(api.get("/metrics").text)


def test_without_a_database_metrics_report_that_it_is_down(api_without_database: FlaskClient) -> None:
    response = api_without_database.get("/metrics")
    assert response.status_code == 200
    assert "kasparro_database_up 0.0" in response.text
