"""Test the symbol key of listings."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from store.tables import SYMBOL_KEY


@pytest.mark.parametrize(
    ("symbol", "key"),
    [("BTC", "btc"), ("$Pepe", "pepe"), ("USD.e", "usde"), ("a_b-c", "abc"), ("ABCDEFGHIJKLMN", "abcdefghij")],
)
def test_the_symbol_key_ignores_case_and_punctuation_and_has_ten_characters(
    engine: Engine, symbol: str, key: str
) -> None:
    query = text(f"SELECT {SYMBOL_KEY} FROM (SELECT CAST(:symbol AS text) AS symbol) AS listing")
    with engine.connect() as connection:
        assert connection.execute(query, {"symbol": symbol}).scalar_one() == key
