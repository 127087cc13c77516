"""Test that /health checks every component, and that /health/live checks only that the process responds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tasks.runs.pausing import pause_source, resume_source
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows
from tests.app.runs.anomaly_rows import insert_anomaly

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


@pytest.fixture
def healthy_api(api: FlaskClient, rows: Rows, broker: Any) -> FlaskClient:
    """Return a client of the API while every component is working."""
    for part in ("worker", "control", "beat"):
        rows.heartbeat(part, datetime.now(UTC))
    rows.run()
    assert get(api, "/health")["status"] == "ok"
    return api


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


def test_an_open_breaker_degrades_its_source_and_shows_when_requests_resume(api: FlaskClient, rows: Rows) -> None:
    now = datetime.now(UTC)
    rows.breaker("coingecko", failures=5, opened_at=now)
    rows.breaker("coinpaprika", failures=6, opened_at=now - timedelta(hours=1))
    rows.run()
    checks = get(api, "/health")["checks"]["sources"]
    assert (checks["coingecko"]["status"], checks["coingecko"]["last_run_status"]) == ("degraded", "succeeded")
    assert re.fullmatch(
        r"Circuit breaker open after 5 failed requests in a row: no requests until 20\d\d-\d\d-\d\dT[\d:]{8}Z\.",
        checks["coingecko"]["detail"],
    )
    assert checks["coinpaprika"]["status"] == "degraded"
    assert (
        checks["coinpaprika"]["detail"]
        == "Circuit breaker half-open after 6 failed requests in a row: one trial request allowed."
    )
    assert checks["csv_history"]["status"] == "unknown"


def test_a_source_with_stale_data_is_degraded(api: FlaskClient, rows: Rows) -> None:
    rows.run(finished_at=NOON)
    insert_anomaly(rows, None, "late", detail="nothing came in for 9000 s; a good run is expected every 5400 s")
    check = (api.get("/health").json or {})["checks"]["sources"]["coingecko"]
    assert check["status"] == "degraded"
    assert check["detail"].startswith("It has fallen behind: nothing came in for 9000 s")


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


def test_a_paused_source_is_degraded_until_it_is_resumed(healthy_api: FlaskClient, engine: Engine) -> None:
    pause_source(engine, "coingecko", SOON, "the contract is being signed")
    pause_source(engine, "coinpaprika", None, "payment_required: the quota is used up")
    health = get(healthy_api, "/health")
    paused = health["checks"]["sources"]
    assert (health["status"], health["checks"]["database"]) == ("degraded", {"status": "ok"})
    assert paused["coingecko"]["detail"] == f"Paused until {SOON:%Y-%m-%dT%H:%M:%SZ}: the contract is being signed"
    assert paused["coingecko"]["status"] == paused["coinpaprika"]["status"] == "degraded"
    assert paused["coingecko"]["last_run_status"] == "succeeded"
    assert paused["coinpaprika"]["detail"].startswith("Paused until it is resumed: payment_required")
    assert paused["coinpaprika"]["paused_until"] is None
    assert "paused_until" not in paused["csv_history"]
    for name in ("coingecko", "coinpaprika"):
        resume_source(engine, name)
    assert get(healthy_api, "/health")["status"] == "ok"


def test_an_expired_pause_does_not_degrade_health(healthy_api: FlaskClient, engine: Engine) -> None:
    pause_source(engine, "coingecko", datetime.now(UTC) - timedelta(seconds=1), "disk_full: no space was left")
    assert get(healthy_api, "/health")["status"] == "ok"


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


def test_a_schema_that_is_behind_degrades_the_database_until_a_check_fails(
    healthy_api: FlaskClient, engine: Engine
) -> None:
    def set_revision(revision: str) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})

    set_revision("0012")
    check = get(healthy_api, "/health")["checks"]["database"]
    assert (check["status"], check["detail"][:28]) == ("degraded", "The schema has revision 0012")
    set_revision("9999")
    assert get(healthy_api, "/health")["checks"]["database"] == {"status": "ok"}
    set_revision("0012")
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE anomalies"))
    response = healthy_api.get("/health")
    assert response.json is not None
    assert response.status_code == 503
    assert response.json["checks"]["database"]["detail"].startswith("The schema has revision 0012")


def test_a_run_that_must_wait_for_another_is_not_overdue(api: FlaskClient, rows: Rows, engine: Engine) -> None:
    current, successor = rows.run(status="running"), rows.run(status="succeeded")
    with engine.begin() as connection:
        values = {"run": successor, "current": current}
        connection.execute(text("UPDATE runs SET after_run = :current, status = 'queued' WHERE id = :run"), values)
    assert get(api, "/health")["checks"]["oldest_queued_run"] == {"status": "ok", "age_seconds": None}
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE runs SET status = 'failed', finished_at = clock_timestamp() WHERE id = :current"), values
        )
    check = get(api, "/health")["checks"]["oldest_queued_run"]
    assert (check["status"], check["age_seconds"] < 60) == ("ok", True)
