"""Test that the quote currencies of a source are read from its setting."""

from __future__ import annotations

import pytest

from settings import SettingsError
from sources.quote_currencies import quote_currencies


def test_a_source_requests_dollars_by_default() -> None:
    assert quote_currencies("coingecko") == ("USD",)


def test_each_currency_is_requested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINGECKO_QUOTE_CURRENCIES", "eur, USD,EUR")
    assert quote_currencies("coingecko") == ("EUR", "USD")
    assert quote_currencies("coinpaprika") == ("USD",)


@pytest.mark.parametrize("currencies", ["dollar$", "USD,", "U", "USD;EUR"])
def test_other_texts_than_codes_are_refused(monkeypatch: pytest.MonkeyPatch, currencies: str) -> None:
    monkeypatch.setenv("COINGECKO_QUOTE_CURRENCIES", currencies)
    with pytest.raises(SettingsError, match="COINGECKO_QUOTE_CURRENCIES: must be currency codes"):
        quote_currencies("coingecko")
