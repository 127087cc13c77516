"""Test that /runs/compare shows two runs side by side."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from store.tables import DriftChangeRow
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows
from tests.app.runs.anomaly_rows import insert_anomaly


@pytest.mark.parametrize("path", ["/runs/compare", "/compare-runs"])
def test_two_runs_are_compared(api: FlaskClient, rows: Rows, path: str) -> None:
    a = rows.run(started_at=NOON, finished_at=NOON + timedelta(seconds=2))
    b = rows.run(status="partial", started_at=NOON, finished_at=NOON + timedelta(seconds=6))
    filled = {"filled": {"price": 4, "rank": 4}}
    rows.page(a, body=b"a", inserted=4, recorded=filled)
    rows.reject(rows.page(b, body=b"b", inserted=4, rejected=1, recorded={"filled": {"price": 4, "rank": 1}}))
    bitcoin, ether = rows.listing("bitcoin"), rows.listing("ether")
    for run, listing, price in ((a, bitcoin, "1"), (b, bitcoin, "100"), (a, ether, "5"), (b, ether, "6")):
        observed_at = NOON + timedelta(minutes=1 if run == b else 0)
        rows.quote(listing, observed_at, price, run=run, ingested_at=NOON + timedelta(seconds=1))
    change = {
        "source": "coingecko",
        "format": "",
        "version": 1,
        "kind": "vanished",
        "field": "rank",
        "policy": "evolve",
    }
    rows.add(DriftChangeRow(run=b, last_run=b, **change))
    insert_anomaly(rows, b)
    comparison = get(api, path, a=str(a), b=str(b))
    assert (comparison["a"]["id"], comparison["b"]["status"]) == (str(a), "partial")
    assert comparison["counters"]["fetched"] == {"a": 4, "b": 5, "difference": 1, "ratio": 1.25}
    assert comparison["counters"]["rejected"] == {"a": 0, "b": 1, "difference": 1, "ratio": None}
    assert comparison["duration_seconds"]["ratio"] == 3.0
    assert comparison["null_shares"]["rank"] == {"a": 0.0, "b": 0.75, "difference": 0.75, "ratio": None}
    assert comparison["reject_reasons"] == [{"field": "price", "code": "no_price", "a": 0, "b": 1}]
    assert comparison["drift"] == [{"run": str(b), "kind": "vanished", "field": "rank", "became": None}]
    moved = {"source_asset_id": "bitcoin", "quote_currency": "USD", "a": "1", "b": "100", "ratio": 100.0}
    assert comparison["moved"] == [moved]
    assert [anomaly["kind"] for anomaly in comparison["anomalies"]] == ["rows"]


def test_an_unknown_missing_or_invalid_run_is_an_error(api: FlaskClient, rows: Rows) -> None:
    run = rows.run()
    assert api.get(f"/runs/compare?a={run}&b={uuid.UUID(int=7)}").status_code == 404
    response = api.get(f"/runs/compare?a={run}&b=7")
    assert [error["name"] for error in (response.json or {})["errors"]] == ["b"]
    assert api.get("/runs/compare").status_code == 422


def test_prices_are_not_compared_if_a_run_wrote_too_many_quotes(api: FlaskClient, rows: Rows) -> None:
    small, large = rows.run(), rows.run()
    rows.page(small, inserted=1)
    rows.page(large, inserted=20_001)
    assert get(api, "/runs/compare", a=str(small), b=str(large))["moved"] is None
    assert get(api, "/runs/compare", a=str(small), b=str(small))["moved"] == []


def test_the_second_path_is_documented_as_a_deprecated_alias(api: FlaskClient) -> None:
    paths = get(api, "/openapi.json")["paths"]
    alias, documented = paths["/compare-runs"]["get"], paths["/runs/compare"]["get"]
    assert alias["deprecated"] is True
    assert "/runs/compare" in alias["summary"]
    assert "deprecated" not in documented
    assert alias["parameters"] == documented["parameters"]
    assert alias["responses"] == documented["responses"]
