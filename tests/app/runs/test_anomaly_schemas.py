"""Test that anomalies appear in their run, the statistics and the metrics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flask.testing import FlaskClient
from sqlalchemy import Engine

from app.runs.anomaly_schemas import recent_anomaly_counts
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows
from tests.app.runs.anomaly_rows import insert_anomaly


def test_anomalies_appear_in_the_run_the_statistics_and_the_metrics(api: FlaskClient, rows: Rows) -> None:
    run = rows.run()
    insert_anomaly(rows, run)
    insert_anomaly(rows, run, "nulls", found_at=NOON)
    assert [anomaly["kind"] for anomaly in get(api, f"/runs/{run}")["anomalies"]] == ["rows", "nulls"]
    stats = get(api, "/stats")
    assert stats["total"]["anomalies_24h"] == 1
    assert {source["source"]: source["anomalies_24h"] for source in stats["sources"]}["coingecko"] == 1
    assert 'kasparro_anomalies_total{kind="nulls",source="coingecko"} 1.0' in api.get("/metrics").text


def test_only_anomalies_of_the_last_day_are_counted(engine: Engine, rows: Rows) -> None:
    now = datetime.now(UTC)
    for hours in (1, 23, 25):
        insert_anomaly(rows, rows.run(), found_at=now - timedelta(hours=hours))
    insert_anomaly(rows, rows.run("coinpaprika"), source="coinpaprika", found_at=now)
    with engine.connect() as connection:
        assert recent_anomaly_counts(connection) == {"coingecko": 2, "coinpaprika": 1}
