"""Test that /health and /metrics show by how much the service's clock is ahead of the database's."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tests.app.quotes.test_data import get


def correct(engine: Engine, ahead: float) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO clock VALUES (true, :ahead, clock_timestamp())"), {"ahead": ahead})


def test_the_clock_is_ok_before_any_correction_and_after_its_end(api: FlaskClient, engine: Engine) -> None:
    assert get(api, "/health")["checks"]["clock"] == {"status": "ok"}
    correct(engine, 0.5)
    assert get(api, "/health")["checks"]["clock"] == {"status": "ok"}


def test_the_health_is_degraded_while_the_clock_is_ahead(api: FlaskClient, engine: Engine) -> None:
    correct(engine, 86_400)
    health = get(api, "/health")
    assert (health["status"], health["checks"]["clock"]["status"]) == ("degraded", "degraded")
    assert (
        "The service's clock is 86400 s ahead of it, and they agree again at 20" in health["checks"]["clock"]["detail"]
    )


def test_the_metrics_show_the_clock_and_the_watermark(api: FlaskClient, engine: Engine) -> None:
    correct(engine, 60)
    metrics = dict(
        line.split(" ")
        for line in api.get("/metrics").text.splitlines()
        if line.startswith("kasparro_clock_") or line.startswith("kasparro_watermark")
    )
    assert float(metrics["kasparro_clock_ahead_seconds"]) == pytest.approx(60, abs=2)
    assert 1 <= float(metrics["kasparro_watermark_lag_seconds"]) < 30
