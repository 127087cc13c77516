"""Test that /health checks every component, and that /health/live checks only that the process responds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from store.tables import AnomalyRow
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
    rows.run(status="failed", error_code="upstream_refused", error_detail="returned 404")
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
    assert checks["sources"]["coingecko"]["detail"] == "The last run failed: upstream_refused: returned 404"


def test_a_partial_run_degrades_its_source_only_if_it_has_a_code(api: FlaskClient, rows: Rows) -> None:
    rows.run(status="partial")
    rows.run("coinpaprika", "partial", error_code="too_few_items", error_detail="2 items, where 3 are expected.")
    sources = get(api, "/health")["checks"]["sources"]
    assert sources["coingecko"]["status"] == "ok"
    assert sources["coinpaprika"]["status"] == "degraded"
    assert sources["coinpaprika"]["detail"] == "The last run is partial: too_few_items: 2 items, where 3 are expected."


def test_an_anomaly_of_the_newest_content_degrades_its_source(api: FlaskClient, rows: Rows) -> None:
    run = rows.run()
    rows.page(run, inserted=6)
    for detail in ("6 items, where 60 is usual", "3 items were rejected"):
        rows.add(AnomalyRow(source="coingecko", run=run, kind="rows", detail=detail))
    check = get(api, "/health")["checks"]["sources"]["coingecko"]
    assert check["status"] == "degraded"
    assert check["detail"] == "The newest content is unusual: 6 items, where 60 is usual and 1 more; see /anomalies."


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
