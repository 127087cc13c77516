"""Test GET /data: the members of a row, the format of a list, and its links."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.app.rows import NOON, Rows


def get(api: FlaskClient, path: str, **query: Any) -> Any:
    response = api.get(path, query_string=query)
    assert response.status_code == 200, response.text
    return response.json


def pages(api: FlaskClient, path: str = "/data", **query: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield every page of a list."""
    cursor: dict[str, str] = {}
    for _ in range(1000):
        page = get(api, path, **query, **cursor)
        yield page["data"]
        if not page["pagination"]["has_more"]:
            assert page["pagination"]["next_cursor"] is None
            return
        cursor = {"cursor": page["pagination"]["next_cursor"]}
    pytest.fail("the list has more than 1000 pages")


def test_a_row_has_every_member_and_null_for_unknown_values(api: FlaskClient, rows: Rows) -> None:
    rows.quote(
        rows.listing(), NOON.replace(microsecond=120000), "0.0000001", market_cap=Decimal("4.2e17"), rank=1, low=None
    )
    assert get(api, "/data")["data"] == [
        {
            "source": "coingecko",
            "asset": "bitcoin",
            "symbol": "BTC",
            "name": "Bitcoin",
            "source_asset_id": "bitcoin",
            "quote_currency": "USD",
            "observed_at": "2026-01-31T12:00:00.120000Z",
            "price": "0.0000001",
            "open": None,
            "high": None,
            "low": None,
            "volume_24h": None,
            "market_cap": "420000000000000000",
            "change_24h_pct": None,
            "rank": 1,
            "circulating_supply": None,
            "total_supply": None,
            "max_supply": None,
            "fetched_at": "2026-01-31T12:00:00Z",
            "ingested_at": "2026-01-31T12:00:00Z",
            "run": "00000000-0000-0000-0000-000000000001",
        }
    ]


def test_an_empty_database_returns_an_empty_list(api: FlaskClient) -> None:
    response = get(api, "/data")
    assert response["data"] == []
    assert response["pagination"] == {
        "limit": 100,
        "next_cursor": None,
        "has_more": False,
        "total": 0,
        "total_is_estimate": False,
    }
