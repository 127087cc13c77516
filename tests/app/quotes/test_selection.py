"""Test the selection of quotes with both query plans: pages have no gaps or repeats, and filters work."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.quotes import selection
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows


@pytest.mark.parametrize("few", [0, 50], ids=["index over time", "primary key"])
@pytest.mark.parametrize("filtered", [{}, {"source": "coingecko"}], ids=["all", "one source"])
@pytest.mark.parametrize("order", ["desc", "asc"])
def test_pages_contain_each_row_once_despite_equal_times_and_new_rows(
    api: FlaskClient,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    filtered: dict[str, str],
    order: str,
) -> None:
    monkeypatch.setattr(selection, "MAX_FEW_LISTINGS", few)
    listings = [rows.listing(f"coin-{number}") for number in range(4)]
    other = rows.listing("bitcoin", source="coinpaprika")
    rows.quote(other, NOON + timedelta(days=1))
    for minutes in range(5):
        for listing in listings:
            rows.quote(listing, NOON + timedelta(minutes=minutes // 2, microseconds=minutes % 2), str(listing))
    expected = [row for page in pages(api, order=order, limit=1000, **filtered) for row in page]
    assert len(expected) == 20 + (not filtered)
    seen: list[dict[str, Any]] = []
    for number, page in enumerate(pages(api, order=order, limit=3, **filtered)):
        seen += page
        # Insert it before the pages already read: the newest row if newest first, the oldest row if oldest first.
        distance = timedelta(days=2 + number)
        rows.quote(listings[0], NOON + distance if order == "desc" else NOON - distance)
    assert seen == expected
    keys = [(datetime.fromisoformat(row["observed_at"]), row["price"]) for row in seen]
    assert keys == sorted(keys, reverse=order == "desc")


@pytest.mark.parametrize("few", [0, 50])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"source": "coingecko"}, {"1", "2", "4"}),
        ({"source": ["coingecko", "coinpaprika"]}, {"1", "2", "3", "4"}),
        ({"asset": "bitcoin"}, {"1", "3", "4"}),
        ({"asset": ["bitcoin", "ether"]}, {"1", "2", "3", "4"}),
        ({"symbol": "eth"}, {"2"}),
        ({"quote_currency": "eur"}, {"4"}),
        ({"source": "coingecko", "asset": "bitcoin", "quote_currency": "USD"}, {"1"}),
        ({"symbol": "NOBODY"}, set()),
        ({"observed_from": "2026-01-31T12:01:00Z"}, {"2", "3", "4"}),
        ({"observed_to": "2026-01-31T12:01:00Z"}, {"1"}),
        ({"observed_from": "2026-01-31T14:01:00+02:00", "observed_to": "2026-01-31T12:02:00Z"}, {"2"}),
        ({"ingested_since": "2026-01-31T12:02:00Z"}, {"3", "4"}),
    ],
)
def test_filters_return_the_matching_rows(
    api: FlaskClient,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    query: dict[str, Any],
    expected: set[str],
) -> None:
    monkeypatch.setattr(selection, "MAX_FEW_LISTINGS", few)
    listings = (
        rows.listing("bitcoin", "coingecko"),
        rows.listing("ether", "coingecko", symbol="ETH"),
        rows.listing("bitcoin", "coinpaprika"),
        rows.listing("bitcoin", "coingecko", quote_currency="EUR"),
    )
    for number, listing in enumerate(listings):
        at = NOON + timedelta(minutes=number)
        rows.quote(listing, at, str(number + 1), ingested_at=at)
    response = get(api, "/data", **query, count="exact")
    assert {row["price"] for row in response["data"]} == expected
    assert response["pagination"]["total"] == len(expected)
