"""Test that a source's newest content keeps its anomalies while later runs find nothing new."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from app.sources.recent_anomalies import recent_anomalies
from store.tables import AnomalyRow
from tests.app.rows import NOON, Rows

HOUR = timedelta(hours=1)


def details(engine: Engine) -> dict[str, list[str]]:
    with engine.connect() as connection:
        return {name: list(found) for name, found in recent_anomalies(connection, ["coingecko", "coinpaprika"]).items()}


def run_with_anomaly(rows: Rows, hours: int, kind: str = "rows") -> None:
    run = rows.run(requested_at=NOON + hours * HOUR, finished_at=NOON + hours * HOUR)
    rows.page(run, inserted=6)
    rows.add(AnomalyRow(source="coingecko", run=run, kind=kind, detail="6 items, where 60 is usual"))


@pytest.mark.parametrize("unchanged_runs", [0, 3])
def test_anomalies_stay_until_there_is_newer_content(engine: Engine, rows: Rows, unchanged_runs: int) -> None:
    run_with_anomaly(rows, 1)
    for number in range(unchanged_runs):
        at = NOON + (2 + number) * HOUR
        rows.page(rows.run(requested_at=at, finished_at=at))
    assert details(engine) == {"coingecko": ["6 items, where 60 is usual"]}
    at = NOON + 9 * HOUR
    rows.page(rows.run(requested_at=at, finished_at=at), inserted=60)
    assert details(engine) == {}


def test_anomalies_of_single_listings_do_not_count(engine: Engine, rows: Rows) -> None:
    run_with_anomaly(rows, 1, "price")
    assert details(engine) == {}
