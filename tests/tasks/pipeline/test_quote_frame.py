"""Test that quotes validated as columns and quotes validated one by one become one sorted frame."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from sources.record import Quote, Record
from sources.record_columns import ValidatedColumns, validate_columns
from tasks.pipeline.quote_frame import QuoteFrame
from tests.upstreams import FETCHED, OBSERVED, item

DAY = timedelta(days=1)


def columns(**items: dict[str, Any]) -> ValidatedColumns:
    """Return validated columns. items: keyword arguments named by the index of the item, such as `item3`."""
    rows = [{"item": int(name.removeprefix("item")), **fields} for name, fields in items.items()]
    validated = validate_columns(pl.DataFrame(rows, schema_overrides={"item": pl.UInt32}), FETCHED)
    assert not validated.undecided
    return validated


def single(**changes: Any) -> Quote:
    return Record(FETCHED).judge(item(**changes)).quote


def at(days: int) -> str:
    return (OBSERVED + days * DAY).isoformat()


def prices(frame: QuoteFrame) -> list[tuple[str, datetime, str]]:
    return sorted((quote.source_asset_id, quote.observed_at, str(quote.price)) for quote in frame)


def test_a_quote_replaces_an_earlier_row_with_the_same_listing_and_time() -> None:
    frame = QuoteFrame.of(columns(item0=item(price="1"), item1=item(1)), [(2, single(price="2"))])
    assert prices(frame) == [("coin-0", OBSERVED, "2"), ("coin-1", OBSERVED, "1.5")]


def test_a_row_replaces_an_earlier_quote_with_the_same_listing_and_time() -> None:
    frame = QuoteFrame.of(columns(item0=item(1), item2=item(price="1")), [(1, single(price="2"))])
    assert prices(frame) == [("coin-0", OBSERVED, "1"), ("coin-1", OBSERVED, "1.5")]


def test_rows_and_single_quotes_of_a_listing_are_sorted_by_time() -> None:
    rows = columns(item0=item(observed_at=at(3)), item2=item(observed_at=at(1)))
    frame = QuoteFrame.of(rows, [(1, single(observed_at=at(2))), (3, single(observed_at=at(0)))])
    assert [quote.observed_at for quote in frame] == [OBSERVED + day * DAY for day in range(4)]
    assert len(frame.listings) == 1


def test_a_listing_gets_the_names_of_its_latest_item() -> None:
    old, new = {"name": "Old", "symbol": "OLD"}, {"name": "New", "symbol": "NEW", "observed_at": at(1)}
    for frame in (
        QuoteFrame.of(columns(item0=item(**old)), [(1, single(**new))]),
        QuoteFrame.of(columns(item1=item(**new)), [(0, single(**old))]),
    ):
        assert [(listing.name, listing.symbol) for listing in frame.listings] == [("New", "NEW")]
        assert len(frame) == 2


def test_two_currencies_of_a_coin_are_two_listings() -> None:
    frame = QuoteFrame.of(columns(item0=item(), item1=item(quote_currency="EUR")), [(2, single(quote_currency="GBP"))])
    assert [listing.quote_currency for listing in frame.listings] == ["USD", "EUR", "GBP"]
    assert len(frame) == 3


def test_a_frame_yields_its_original_quotes() -> None:
    full = single(rank=7, market_cap="0.10", change_24h_pct="-1e-7", max_supply=None)
    plain = single(source_asset_id="coin-1", price="12345678901234567890.5")
    quotes = list(QuoteFrame.of(columns(item0=item(2)), [(1, full), (2, plain)]))
    assert quotes == [single(source_asset_id="coin-2", symbol="C2", name="Coin 2"), full, plain]
    assert (type(quotes[1].rank), quotes[1].market_cap) == (int, Decimal("0.10"))


def test_rows_contain_all_values_as_text_in_the_order_of_the_record() -> None:
    frame = QuoteFrame.of(columns(item0=item(price="1.50", volume_24h="7")), [])
    assert list(frame.rows()) == [(0, OBSERVED, "1.50", None, None, None, "7", *[None] * 6)]


def test_a_page_without_quotes_has_an_empty_frame() -> None:
    frame = QuoteFrame()
    assert (len(frame), list(frame), list(frame.rows())) == (0, [], [])
