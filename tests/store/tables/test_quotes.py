"""Test the numbers and the key of quotes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from store.tables import QuoteRow
from tests.app.rows import Rows


@pytest.mark.parametrize("price", ["0.00000000312345678901", "412345678901234567.89"])
def test_a_price_keeps_all_its_digits(engine: Engine, price: str) -> None:
    rows = Rows(engine)
    rows.quote(rows.listing(), price=price)
    with engine.connect() as connection:
        assert connection.scalar(select(QuoteRow.price)) == Decimal(price)


def test_a_listing_has_at_most_one_quote_for_each_time(engine: Engine) -> None:
    rows = Rows(engine)
    listing = rows.listing()
    rows.quote(listing)
    with pytest.raises(IntegrityError, match="quotes_pkey"):
        rows.quote(listing, price="2")
