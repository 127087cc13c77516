"""Test that /assets/<slug>/agreement compares prices of the same time, and flags outliers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows


def test_prices_at_the_same_time_are_compared_and_an_outlier_is_flagged(api: FlaskClient, rows: Rows) -> None:
    for source, price, minutes, currency in (
        ("coingecko", "100", 0, "USD"),
        ("coinpaprika", "101", -10, "USD"),
        ("csv_history", "106", -29, "USD"),
        ("coingecko", "90", 0, "EUR"),
        ("coinpaprika", "70", -31, "EUR"),
    ):
        listing = rows.listing("bitcoin", source, quote_currency=currency)
        rows.quote(listing, NOON + timedelta(minutes=minutes), price)
    agreement = get(api, "/assets/bitcoin/agreement")
    assert (agreement["asset"], agreement["limit"]) == ("bitcoin", 0.03)
    euro, dollar = agreement["data"]
    assert (euro["quote_currency"], euro["sources"], euro["agrees"]) == ("EUR", 1, None)
    assert [price["source"] for price in euro["stale"]] == ["coinpaprika"]
    assert (dollar["median"], dollar["agrees"]) == ("101", False)
    assert dollar["spread"] == pytest.approx(6 / 101)
    assert {price["source"]: price["is_outlier"] for price in dollar["prices"]} == {
        "coingecko": False,
        "coinpaprika": False,
        "csv_history": True,
    }


def test_prices_within_the_limit_agree(api: FlaskClient, rows: Rows) -> None:
    for source, price in (("coingecko", "100"), ("coinpaprika", "101")):
        rows.quote(rows.listing("bitcoin", source), NOON, price)
    [dollar] = get(api, "/assets/bitcoin/agreement")["data"]
    assert (dollar["sources"], dollar["agrees"], dollar["stale"]) == (2, True, [])
    assert [price["off"] for price in dollar["prices"]] == [pytest.approx(-0.5 / 100.5), pytest.approx(0.5 / 100.5)]


def test_an_unknown_asset_is_a_404_and_an_asset_without_quotes_has_no_prices(api: FlaskClient, rows: Rows) -> None:
    assert api.get("/assets/nothing/agreement").status_code == 404
    rows.listing("quoteless")
    assert get(api, "/assets/quoteless/agreement")["data"] == []
