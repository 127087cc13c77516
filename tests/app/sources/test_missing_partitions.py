"""Test that missing partitions can be forgotten, and only these."""

from __future__ import annotations

from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows


def test_missing_partitions_are_shown_and_forgotten(
    api: FlaskClient, rows: Rows, engine: Engine, token: dict[str, str]
) -> None:
    rows.checkpoint("csv_history", "here.csv")
    rows.checkpoint("csv_history", "gone.csv", missing_since=NOON)
    rows.checkpoint("coingecko", "", missing_since=NOON)
    shown = get(api, "/sources/csv_history")["checkpoints"]
    assert {row["partition"]: row["missing_since"] for row in shown} == {
        "here.csv": None,
        "gone.csv": "2026-01-31T12:00:00Z",
    }
    response = api.delete("/sources/csv_history/missing-partitions", headers=token)
    assert response.json is not None
    assert [row["partition"] for row in response.json["checkpoints"]] == ["here.csv"]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM checkpoints WHERE source = 'coingecko'")) == 1


def test_missing_partitions_of_an_unknown_source_are_a_404(api: FlaskClient, token: dict[str, str]) -> None:
    response = api.delete("/sources/nosuch/missing-partitions", headers=token)
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (404, "unknown_source")


def test_only_requests_with_the_token_forget_partitions(api: FlaskClient, rows: Rows) -> None:
    rows.checkpoint("csv_history", "gone.csv", missing_since=NOON)
    assert api.delete("/sources/csv_history/missing-partitions").status_code == 401
    assert get(api, "/sources/csv_history")["checkpoints"]
