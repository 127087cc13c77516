"""Test that /assets lists each asset once, with its listings."""

from __future__ import annotations

from decimal import Decimal

import pytest
from flask.testing import FlaskClient

from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows


def test_an_asset_shows_its_listings_and_how_each_was_matched(api: FlaskClient, rows: Rows) -> None:
    rows.listing("bitcoin", "coinpaprika")
    rows.quote(rows.listing("bitcoin", "coingecko"), NOON)
    asset = get(api, "/assets/bitcoin")
    assert (asset["slug"], asset["symbol"], asset["name"]) == ("bitcoin", "BTC", "Bitcoin")
    gecko, paprika = asset["listings"]
    assert (gecko["source"], gecko["method"], gecko["confidence"]) == ("coingecko", "symbol_and_name", 0.9)
    assert (gecko["newest"], paprika["newest"]) == ("2026-01-31T12:00:00Z", None)


def test_assets_are_listed_once_by_slug(api: FlaskClient, rows: Rows) -> None:
    for number in range(5):
        rows.listing(f"coin-{number}", source="coinpaprika" if number == 4 else "coingecko", symbol=f"C{number}")
    slugs = [asset["slug"] for page in pages(api, "/assets", limit=2) for asset in page]
    assert slugs == [f"coin-{number}" for number in range(5)]
    assert [asset["slug"] for asset in get(api, "/assets", source="coinpaprika")["data"]] == ["coin-4"]
    assert [asset["slug"] for asset in get(api, "/assets", symbol=["c1", "C2"])["data"]] == ["coin-1", "coin-2"]


def test_a_confidence_is_returned_exactly(api: FlaskClient, rows: Rows) -> None:
    rows.listing("bitcoin")
    assert Decimal(str(get(api, "/assets/bitcoin")["listings"][0]["confidence"])) == Decimal("0.9")


@pytest.mark.parametrize(
    ("path", "code", "detail"),
    [
        ("/assets/bitcion", "unknown_asset", "did you mean 'bitcoin'?"),
        ("/assets/%00", "not_found", "There is nothing"),
        ("/assets/%ed%a0%80", "unknown_asset", "There is no asset"),
    ],
)
def test_an_unknown_slug_is_a_404_that_suggests_the_nearest(
    api: FlaskClient, rows: Rows, path: str, code: str, detail: str
) -> None:
    rows.listing("bitcoin")
    response = api.get(path)
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (404, code)
    assert detail in response.json["detail"]
