"""Test that /anomalies lists unusual runs and sources, newest first."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows
from tests.app.runs.anomaly_rows import insert_anomaly


def test_anomalies_are_listed_newest_first_and_filtered(api: FlaskClient, rows: Rows) -> None:
    run, other = rows.run(), rows.run(source="coinpaprika")
    insert_anomaly(rows, run)
    insert_anomaly(rows, other, "nulls", source="coinpaprika", subject="rank", found_at=NOON)
    insert_anomaly(rows, None, "late", over_at=NOON)
    anomalies = [anomaly for page in pages(api, "/anomalies", limit=2) for anomaly in page]
    assert [(anomaly["kind"], anomaly["source"], anomaly["run"]) for anomaly in anomalies] == [
        ("late", "coingecko", None),
        ("nulls", "coinpaprika", str(other)),
        ("rows", "coingecko", str(run)),
    ]
    assert (anomalies[2]["value"], anomalies[2]["expected"], anomalies[2]["ended_at"]) == (6.0, 60.0, None)
    for query, kinds in (
        ({"source": "coinpaprika"}, ["nulls"]),
        ({"kind": ["rows", "late"]}, ["late", "rows"]),
        ({"run": str(run)}, ["rows"]),
        ({"found_from": "2026-02-01T00:00:00Z"}, ["late", "rows"]),
    ):
        assert [anomaly["kind"] for anomaly in get(api, "/anomalies", **query)["data"]] == kinds
    assert api.get("/anomalies?kind=strange").status_code == 422
