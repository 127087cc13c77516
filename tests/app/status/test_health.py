"""Test that /health checks every component, and that /health/live checks only that the process responds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tasks.runs.pausing import pause_source
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


def test_health_is_ok_if_every_component_has_sent_a_heartbeat(api: FlaskClient, rows: Rows, broker: Any) -> None:
    for part in ("worker", "control", "beat"):
        rows.heartbeat(part, datetime.now(UTC))
    rows.run()
    health = get(api, "/health")
    assert health["status"] == "ok", health
    assert health["checks"]["sources"]["coingecko"]["last_run_status"] == "succeeded"


def test_a_silent_worker_a_failed_source_and_an_old_queued_run_degrade_health(api: FlaskClient, rows: Rows) -> None:
    rows.heartbeat("worker", NOON)
    rows.run(status="failed", error_code="upstream_refused")
    rows.run("coinpaprika", "queued")
    health = get(api, "/health")
    checks = health["checks"]
    assert health["status"] == "degraded"
    for name in ("worker", "control", "beat"):
        assert checks[name]["status"] == "down"
    assert re.fullmatch(r"No heartbeat for more than [\d.]+ s\.", checks["worker"]["detail"])
    assert checks["worker"]["last_seen"] == "2026-01-31T12:00:00Z"
    assert checks["beat"]["detail"] == "No heartbeat received yet."
    assert checks["oldest_queued_run"]["status"] == "degraded"
    assert checks["oldest_queued_run"]["detail"].startswith("A run has been due for more than ")
    assert checks["sources"]["coingecko"]["status"] == "degraded"
    assert checks["sources"]["coingecko"]["detail"] == "The last run failed: upstream_refused."


def test_a_recently_committed_page_counts_as_a_worker_heartbeat(api: FlaskClient, rows: Rows) -> None:
    rows.page(rows.run(), committed_at=datetime.now(UTC))
    assert get(api, "/health")["checks"]["worker"]["status"] == "ok"


def test_without_a_database_health_is_down_but_the_process_is_live(api_without_database: FlaskClient) -> None:
    response = api_without_database.get("/health")
    assert response.json is not None
    assert (response.status_code, response.json["status"]) == (503, "down")
    assert response.json["checks"]["database"]["status"] == "down"
    assert response.json["checks"]["worker"] == {"status": "unknown", "detail": "The database is down."}
    assert response.json["api_latency_seconds"] < 3000
    assert get(api_without_database, "/health/live")["status"] == "ok"


@pytest.mark.parametrize("table", ["heartbeats", "sources"])
def test_missing_tables_are_reported_with_the_next_step(api: FlaskClient, engine: Engine, table: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {table} CASCADE"))
    response = api.get("/health")
    assert response.json is not None
    assert response.status_code == 503
    assert "alembic upgrade head" in response.json["checks"]["database"]["detail"]


def test_a_full_disk_degrades_the_database_and_names_the_sources(healthy_api: FlaskClient, engine: Engine) -> None:
    for source in ("coingecko", "coinpaprika"):
        pause_source(engine, source, SOON, "disk_full: Postgres reported disk_full (53100)")
    response = healthy_api.get("/health")
    assert response.json is not None
    assert (response.status_code, response.json["status"]) == (200, "degraded")
    assert response.json["checks"]["database"] == {
        "status": "degraded",
        "detail": "Its disk is full; paused sources: coingecko, coinpaprika.",
    }
