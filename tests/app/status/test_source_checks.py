"""Test that /health reports the problems of each source: its breaker, its lateness and its pause."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from flask.testing import FlaskClient
from sqlalchemy import Engine

from tasks.runs.pausing import pause_source, resume_source
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows
from tests.app.runs.anomaly_rows import insert_anomaly

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


def test_an_open_breaker_degrades_its_source_and_shows_when_requests_resume(api: FlaskClient, rows: Rows) -> None:
    now = datetime.now(UTC)
    rows.breaker("coingecko", failures=5, opened_at=now)
    rows.breaker("coinpaprika", failures=6, opened_at=now - timedelta(hours=1))
    rows.run()
    checks = get(api, "/health")["checks"]["sources"]
    assert (checks["coingecko"]["status"], checks["coingecko"]["last_run_status"]) == ("degraded", "succeeded")
    assert re.fullmatch(
        r"Circuit breaker open after 5 consecutive failed requests: no requests until 20\d\d-\d\d-\d\dT[\d:]{8}Z\.",
        checks["coingecko"]["detail"],
    )
    assert checks["coinpaprika"]["status"] == "degraded"
    assert (
        checks["coinpaprika"]["detail"]
        == "Circuit breaker half-open after 6 consecutive failed requests: one trial request allowed."
    )
    assert checks["csv_history"]["status"] == "unknown"


def test_a_source_with_stale_data_is_degraded(api: FlaskClient, rows: Rows) -> None:
    rows.run(finished_at=NOON)
    insert_anomaly(rows, None, "late", detail="nothing came in for 9000 s; a good run is expected every 5400 s")
    check = (api.get("/health").json or {})["checks"]["sources"]["coingecko"]
    assert check["status"] == "degraded"
    assert check["detail"].startswith("It has fallen behind: nothing came in for 9000 s")


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
