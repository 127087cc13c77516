"""Test GET /data/latest: the newest quote of each listing, or of each asset."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask.testing import FlaskClient

from tests.app.quotes.test_data import pages
from tests.app.rows import NOON, Rows


def test_the_newest_quote_of_each_listing_or_asset_is_returned(api: FlaskClient, rows: Rows) -> None:
    coingecko, coinpaprika = rows.listing("bitcoin"), rows.listing("bitcoin", "coinpaprika")
    euro = rows.listing("bitcoin", quote_currency="EUR")
    rows.quote(coingecko, NOON, "1")
    rows.quote(coingecko, NOON + timedelta(minutes=1), "2")
    rows.quote(coinpaprika, NOON + timedelta(minutes=2), "3")
    rows.quote(euro, NOON, "4")
    rows.quote(rows.listing("ether", symbol="ETH"), NOON, "5")

    def prices(**query: Any) -> list[str]:
        return [row["price"] for page in pages(api, "/data/latest", limit=1, **query) for row in page]

    assert prices() == ["2", "3", "4", "5"]
    assert prices(per="asset") == ["4", "3", "5"]
    assert prices(per="asset", source="coingecko") == ["4", "2", "5"]
    assert prices(asset="ether") == ["5"]
