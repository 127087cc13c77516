"""Test that /dropped-values and a run show the invalid values that became null."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows
from tests.app.runs.test_dropped_schemas import kind


@pytest.fixture
def run(rows: Rows) -> str:
    """Return a run with three kinds of dropped values, next to a run of another source with one."""
    other = rows.run("coinpaprika")
    rows.page(other, source="coinpaprika", recorded={"dropped": [kind("rank", "not_a_rank", 9)]}, body=b"x")
    run = rows.run()
    rows.page(run, 0, recorded={"dropped": [kind("rank", "not_a_rank", 2), kind("rank", "out_of_range", 1)]})
    later = NOON + timedelta(hours=1)
    rows.page(run, 1, recorded={"dropped": [kind("high", "high_below_low", 1)]}, committed_at=later)
    return str(run)


@pytest.mark.parametrize(
    ("query", "counts"),
    [
        ({}, [9, 2, 1, 1]),
        ({"source": "coingecko"}, [2, 1, 1]),
        ({"field": "rank", "source": "coingecko"}, [2, 1]),
        ({"code": "not_a_rank"}, [9, 2]),
        ({"dropped_from": "2026-01-31T12:30:00Z"}, [1]),
        ({"dropped_to": "2026-01-31T12:30:00Z", "source": "coingecko"}, [2, 1]),
        ({"field": "price"}, []),
    ],
)
def test_dropped_values_are_counted_and_filtered(
    api: FlaskClient, run: str, query: dict[str, str], counts: list[int]
) -> None:
    shown = get(api, "/dropped-values", **query)
    assert [row["count"] for row in shown["data"]] == counts
    assert not shown["has_more"]


def test_a_kind_of_dropped_values_has_an_example(api: FlaskClient, run: str) -> None:
    [row] = get(api, "/dropped-values", run=run, field="high")["data"]
    assert row == {
        "source": "coingecko",
        "field": "high",
        "code": "high_below_low",
        "count": 1,
        "first_dropped_at": "2026-01-31T13:00:00Z",
        "last_dropped_at": "2026-01-31T13:00:00Z",
        "detail": "detail a",
        "item": "item a",
    }


def test_a_run_shows_its_dropped_values(api: FlaskClient, rows: Rows, run: str) -> None:
    shown = get(api, f"/runs/{run}")["dropped_values"]
    assert [(row["field"], row["code"], row["count"]) for row in shown] == [
        ("rank", "not_a_rank", 2),
        ("high", "high_below_low", 1),
        ("rank", "out_of_range", 1),
    ]
    assert get(api, f"/runs/{rows.run()}")["dropped_values"] == []
