"""What is out of the ordinary can be read, wherever one looks; and two runs be held against each other."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from store.tables import AnomalyRow, DriftChangeRow
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows


def anomaly(rows: Rows, run: uuid.UUID | None, kind: str = "rows", **more: Any) -> None:
    values = {"source": "coingecko", "detail": "6 items, where 60 is usual", "value": 6, "expected": 60, **more}
    rows.add(AnomalyRow(run=run, kind=kind, **values))


def test_anomalies_are_listed_newest_first_and_by_what_they_are_of(api: FlaskClient, rows: Rows) -> None:
    run, other = rows.run(), rows.run(source="coinpaprika")
    anomaly(rows, run)
    anomaly(rows, other, "nulls", source="coinpaprika", subject="rank", found_at=NOON)
    anomaly(rows, None, "late", over_at=NOON)
    found = [it for page in pages(api, "/anomalies", limit=2) for it in page]
    assert [(it["kind"], it["source"], it["run"]) for it in found] == [
        ("late", "coingecko", None),
        ("nulls", "coinpaprika", str(other)),
        ("rows", "coingecko", str(run)),
    ]
    assert (found[2]["value"], found[2]["expected"], found[2]["ended_at"]) == (6.0, 60.0, None)
    for query, kinds in (
        ({"source": "coinpaprika"}, ["nulls"]),
        ({"kind": ["rows", "late"]}, ["late", "rows"]),
        ({"run": str(run)}, ["rows"]),
        ({"found_from": "2026-02-01T00:00:00Z"}, ["late", "rows"]),
    ):
        assert [it["kind"] for it in get(api, "/anomalies", **query)["data"]] == kinds
    assert api.get("/anomalies?kind=strange").status_code == 422


def test_a_run_the_sums_and_the_metrics_tell_of_anomalies(api: FlaskClient, rows: Rows) -> None:
    run = rows.run()
    anomaly(rows, run)
    anomaly(rows, run, "nulls", found_at=NOON)
    assert [it["kind"] for it in get(api, f"/runs/{run}")["anomalies"]] == ["rows", "nulls"]
    stats = get(api, "/stats")
    assert stats["total"]["anomalies_24h"] == 1
    assert {it["source"]: it["anomalies_24h"] for it in stats["sources"]}["coingecko"] == 1
    assert 'kasparro_anomalies_total{kind="nulls",source="coingecko"} 1.0' in api.get("/metrics").text


def test_a_source_that_has_fallen_behind_degrades(api: FlaskClient, rows: Rows) -> None:
    rows.run(finished_at=NOON)
    anomaly(rows, None, "late", detail="nothing came in for 9000 s; a good run is expected every 5400 s")
    check = (api.get("/health").json or {})["checks"]["sources"]["coingecko"]
    assert check["status"] == "degraded"
    assert check["detail"].startswith("It has fallen behind: nothing came in for 9000 s")


@pytest.mark.parametrize("path", ["/runs/compare", "/compare-runs"])
def test_two_runs_are_held_against_each_other(api: FlaskClient, rows: Rows, path: str) -> None:
    a = rows.run(started_at=NOON, finished_at=NOON + timedelta(seconds=2))
    b = rows.run(status="partial", started_at=NOON, finished_at=NOON + timedelta(seconds=6))
    filled = {"filled": {"price": 4, "rank": 4}}
    rows.page(a, body=b"a", inserted=4, recorded=filled)
    rows.reject(rows.page(b, body=b"b", inserted=4, rejected=1, recorded={"filled": {"price": 4, "rank": 1}}))
    listing, other = rows.listing("bitcoin"), rows.listing("ether")
    for run, minutes, price in ((a, 0, "1"), (b, 1, "100"), (a, 0, "5"), (b, 1, "6")):
        of = listing if price in ("1", "100") else other
        rows.quote(of, NOON + timedelta(minutes=minutes), price, run=run, ingested_at=NOON + timedelta(seconds=1))
    change = {
        "source": "coingecko",
        "format": "",
        "version": 1,
        "kind": "vanished",
        "field": "rank",
        "policy": "evolve",
    }
    rows.add(DriftChangeRow(run=b, last_run=b, **change))
    anomaly(rows, b)
    found = get(api, path, a=str(a), b=str(b))
    assert (found["a"]["id"], found["b"]["status"]) == (str(a), "partial")
    assert found["counters"]["fetched"] == {"a": 4, "b": 5, "difference": 1, "ratio": 1.25}
    assert found["counters"]["rejected"] == {"a": 0, "b": 1, "difference": 1, "ratio": None}
    assert found["duration_seconds"]["ratio"] == 3.0
    assert found["null_shares"]["rank"] == {"a": 0.0, "b": 0.75, "difference": 0.75, "ratio": None}
    assert found["reject_reasons"] == [{"field": "price", "code": "no_price", "a": 0, "b": 1}]
    assert found["drift"] == [{"run": str(b), "kind": "vanished", "field": "rank", "became": None}]
    moved = {"source_asset_id": "bitcoin", "quote_currency": "USD", "a": "1", "b": "100", "ratio": 100.0}
    assert found["moved"] == [moved]
    assert [it["kind"] for it in found["anomalies"]] == ["rows"]


def test_runs_that_are_not_there_or_not_named_are_said(api: FlaskClient, rows: Rows) -> None:
    run = rows.run()
    assert api.get(f"/runs/compare?a={run}&b={uuid.UUID(int=7)}").status_code == 404
    answer = api.get(f"/runs/compare?a={run}&b=7")
    assert [error["name"] for error in (answer.json or {})["errors"]] == ["b"]
    assert api.get("/runs/compare").status_code == 422


def test_the_sources_of_an_asset_are_held_against_each_other(api: FlaskClient, rows: Rows) -> None:
    for source, price, minutes, currency in (
        ("coingecko", "100", 0, "USD"),
        ("coinpaprika", "101", -10, "USD"),
        ("csv_history", "106", -29, "USD"),
        ("coingecko", "90", 0, "EUR"),
        ("coinpaprika", "70", -31, "EUR"),
    ):
        listing = rows.listing("bitcoin", source, quote_currency=currency)
        rows.quote(listing, NOON + timedelta(minutes=minutes), price)
    found = get(api, "/assets/bitcoin/agreement")
    assert (found["asset"], found["limit"]) == ("bitcoin", 0.03)
    euro, dollar = found["data"]
    assert (euro["quote_currency"], euro["sources"], euro["agrees"]) == ("EUR", 1, None)
    assert [it["source"] for it in euro["stale"]] == ["coinpaprika"]
    assert (dollar["median"], dollar["agrees"]) == ("101", False)
    assert dollar["spread"] == pytest.approx(6 / 101)
    assert {it["source"]: it["is_outlier"] for it in dollar["said"]} == {
        "coingecko": False,
        "coinpaprika": False,
        "csv_history": True,
    }
    assert api.get("/assets/nothing/agreement").status_code == 404
    rows.listing("quoteless")
    assert get(api, "/assets/quoteless/agreement")["data"] == []
