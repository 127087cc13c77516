"""Declare which fields of the unified record refuse an item, and which values contradict each other. Pure.

docs/reference/record.md is generated from these tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple, Protocol


class FieldRule(NamedTuple):
    """What is valid in a field, and whether an invalid value refuses the item or is dropped without it."""

    valid: str
    refuses: bool = False


_AMOUNT = "a number of 0 or more"

FIELD_RULES: Mapping[str, FieldRule] = {
    "source_asset_id": FieldRule("text of 1 to 200 characters", refuses=True),
    "symbol": FieldRule("text of 1 to 100 characters", refuses=True),
    "name": FieldRule("text of 1 to 300 characters", refuses=True),
    "quote_currency": FieldRule("2 to 12 letters and digits", refuses=True),
    "observed_at": FieldRule("a time with its offset from UTC, from 2009-01-03 to the fetch", refuses=True),
    "price": FieldRule("a number above 0", refuses=True),
    "open": FieldRule(_AMOUNT),
    "high": FieldRule(_AMOUNT),
    "low": FieldRule(_AMOUNT),
    "volume_24h": FieldRule(_AMOUNT),
    "market_cap": FieldRule(_AMOUNT),
    "change_24h_pct": FieldRule("a number"),
    "rank": FieldRule("a whole number of 1 or more"),
    "circulating_supply": FieldRule(_AMOUNT),
    "total_supply": FieldRule(_AMOUNT),
    "max_supply": FieldRule(_AMOUNT),
}
"""The rule of each field. A refused item is one whose listing, time or price is in doubt."""

SIDE_FIELDS = frozenset(name for name, rule in FIELD_RULES.items() if not rule.refuses)
"""The fields whose invalid values are dropped. The quote keeps its price."""

RANGE_TOLERANCE = 2
"""The factor by which a price may leave the range of a record without `open`.

With `open`, the record is a candle, and its price is the close. Without it, the range is that of a ticker. CoinGecko
computes such a range some minutes before the price: one price in ten lies outside, by up to one percent. A price that
is further away than this factor belongs to another unit or another coin.
"""


class ContradictionRule(NamedTuple):
    """Values that cannot all be right. dropped: the fields that become null, if it is unclear which one is wrong."""

    meaning: str
    dropped: tuple[str, ...]


CONTRADICTION_RULES: Mapping[str, ContradictionRule] = {
    "high_below_low": ContradictionRule("The high is below the low.", ("high", "low")),
    "open_outside_range": ContradictionRule("The open is above the high or below the low.", ("open",)),
    "price_outside_range": ContradictionRule(
        "The price is above the high or below the low. In a record without `open`, the price may be up to "
        f"{RANGE_TOLERANCE} times the high, and down to the low divided by {RANGE_TOLERANCE}.",
        ("high", "low"),
    ),
}
"""The contradictions by code. Supplies are not compared: real ones are measured at different times and often differ."""


class Candle(Protocol):
    """The values of a quote that may contradict each other."""

    @property
    def price(self) -> Decimal: ...
    @property
    def open(self) -> Decimal | None: ...
    @property
    def high(self) -> Decimal | None: ...
    @property
    def low(self) -> Decimal | None: ...


def find_contradictions(quote: Candle) -> Iterator[tuple[str, str]]:
    """Yield the code and the detail of each contradiction."""
    high, low = quote.high, quote.low
    if high is not None and low is not None and high < low:
        yield "high_below_low", f"expected a high of at least the low ({_short(low)}), got {_short(high)}"
        return
    between = f"between the low ({_short(low)}) and the high ({_short(high)})"
    if quote.open is not None and not _is_within(quote.open, high, low):
        yield "open_outside_range", f"expected an open {between}, got {_short(quote.open)}"
    if quote.open is None:
        high, low = high and high * RANGE_TOLERANCE, low and low / RANGE_TOLERANCE
    if not _is_within(quote.price, high, low):
        yield "price_outside_range", f"expected a price {between}, got {_short(quote.price)}"


def _is_within(value: Decimal, high: Decimal | None, low: Decimal | None) -> bool:
    return (high is None or value <= high) and (low is None or value >= low)


def _short(number: Decimal | None) -> str:
    text = "none" if number is None else str(number)
    return text if len(text) <= 40 else f"{text[:37]}…"
