"""The unified record: normalized items in, quotes or reasons out. Pure: no clock, no network, no database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from marshmallow import RAISE, Schema, ValidationError, fields
from marshmallow.types import ErrorMessages

from sources.contract import Reject

EARLIEST = datetime(2009, 1, 3, tzinfo=UTC)
"""Bitcoin's first block. What claims to be older is a wrong unit or a default date."""

LARGEST, SMALLEST = Decimal("1e40"), Decimal("1e-60")
"""Beyond these a number is a mistake, and written out in full it would be a megabyte of zeros."""

MAX_DIGITS = 100
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?0*\d{1,4})?", re.ASCII)
CURRENCY = re.compile(r"[A-Z0-9]{2,12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Quote:
    """What one listing was worth at one instant. Money is in quote_currency, times are aware UTC, None is unknown."""

    source_asset_id: str
    symbol: str
    name: str
    quote_currency: str
    observed_at: datetime
    price: Decimal
    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    volume_24h: Decimal | None = None
    market_cap: Decimal | None = None
    change_24h_pct: Decimal | None = None
    rank: int | None = None
    circulating_supply: Decimal | None = None
    total_supply: Decimal | None = None
    max_supply: Decimal | None = None


_NAMES = tuple(field.name for field in fields_of(Quote))

KEY_FIELDS, VALUE_FIELDS = _NAMES[:4], _NAMES[5:]
"""What a quote is of: texts. And what it says, beside when: numbers."""


def _wrong(code: str, detail: str) -> ValidationError:
    return ValidationError([{"code": code, "detail": detail}])


def _shown(value: Any) -> str:
    try:
        shown = ascii(value)
    except (ValueError, RecursionError):  # an int of thousands of digits, a list as deep
        shown = type(value).__name__
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


class _Coded(fields.Field[Any]):
    """A field whose reasons all have a code: marshmallow's own messages, of what is missing, would have none."""

    default_error_messages: ErrorMessages = {  # noqa: RUF012 — as marshmallow declares it
        "required": {"code": "missing", "detail": "expected a value, got none"},
        "null": {"code": "missing", "detail": "expected a value, got none"},
    }


class _Text(_Coded):
    def __init__(self, longest: int):
        super().__init__(required=True)
        self.longest = longest

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if not isinstance(value, str):
            raise _wrong("not_text", f"expected text, got {_shown(value)}")
        text = value.strip()
        if not text:
            raise _wrong("empty", "expected text, got none")
        if len(text) > self.longest:
            raise _wrong("too_long", f"expected at most {self.longest} characters, got {len(text)}")
        if "\x00" in text or (not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)):
            raise _wrong("encoding", f"expected text without NUL or broken characters, got {_shown(value)}")
        return text


class _Currency(_Text):
    def __init__(self) -> None:
        super().__init__(longest=12)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        code = super()._deserialize(value, attr, data, **kwargs).upper()
        if not CURRENCY.fullmatch(code):
            raise _wrong("not_a_currency", f"expected a currency code such as USD, got {_shown(value)}")
        return code


class _Number(_Coded):
    """A Decimal, an int, or a number as text in plain or exponent notation; exactly as it came, never a float."""

    def __init__(self, least: Decimal | None = None, *, required: bool = False):
        super().__init__(required=required, allow_none=not required)
        self.least = least

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> Decimal:
        if isinstance(value, str) and len(value) <= 2 * MAX_DIGITS and PLAIN_NUMBER.fullmatch(value.strip()):
            number = Decimal(value.strip())
        elif isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
            number = Decimal(value)
        else:
            raise _wrong("not_a_number", f"expected a number, got {_shown(value)}")
        if not number.is_finite() or (number and not SMALLEST <= number.copy_abs() <= LARGEST):
            raise _wrong("out_of_range", f"expected a number between {SMALLEST} and {LARGEST}, got {_shown(value)}")
        if len(number.as_tuple().digits) > MAX_DIGITS:
            raise _wrong("out_of_range", f"expected at most {MAX_DIGITS} digits, got {len(number.as_tuple().digits)}")
        if self.least is not None and number < self.least:
            raise _wrong("negative", f"expected {self.least} or more, got {_shown(value)}")
        return number


class _Price(_Number):
    default_error_messages: ErrorMessages = {  # noqa: RUF012 — as marshmallow declares it
        "required": {"code": "no_price", "detail": "expected a price, got none"},
        "null": {"code": "no_price", "detail": "expected a price, got none"},
    }

    def __init__(self) -> None:
        super().__init__(required=True)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Decimal:
        price = super()._deserialize(value, attr, data, **kwargs)
        if price <= 0:
            raise _wrong("not_positive", f"expected a price above 0, got {_shown(value)}")
        return price


class _Rank(_Number):
    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        rank = super()._deserialize(value, attr, data, **kwargs)
        if rank != rank.to_integral_value() or not 1 <= rank < 2**31:
            raise _wrong("not_a_rank", f"expected a whole number from 1, got {_shown(value)}")
        return int(rank)


class _Instant(_Coded):
    """An aware datetime, or RFC 3339 text with an offset."""

    def __init__(self) -> None:
        super().__init__(required=True)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> datetime:
        try:
            instant = datetime.fromisoformat(value) if isinstance(value, str) else value
            at = instant.astimezone(UTC) if instant.tzinfo else None
        except (ValueError, AttributeError, OverflowError):
            at = None
        if at is None:
            raise _wrong("not_a_time", f"expected a time with its offset from UTC, got {_shown(value)}")
        if at < EARLIEST:
            raise _wrong("too_early", f"expected a time since {EARLIEST:%Y-%m-%d}, got {at.isoformat()}")
        latest = cast(Record, self.parent).latest
        if at > latest:
            raise _wrong("in_future", f"expected a time up to {latest.isoformat()}, got {at.isoformat()}")
        return at


class Record(Schema):
    """The reference validator: judges normalized items that were fetched at one time.

    latest: the last instant an observation may have, the time of the fetch plus the clocks' skew.
    """

    class Meta:
        unknown = RAISE

    source_asset_id = _Text(longest=200)
    symbol = _Text(longest=100)
    name = _Text(longest=300)
    quote_currency = _Currency()
    observed_at = _Instant()
    price = _Price()
    open = _Number(least=Decimal(0))
    high = _Number(least=Decimal(0))
    low = _Number(least=Decimal(0))
    volume_24h = _Number(least=Decimal(0))
    market_cap = _Number(least=Decimal(0))
    change_24h_pct = _Number()
    rank = _Rank()
    circulating_supply = _Number(least=Decimal(0))
    total_supply = _Number(least=Decimal(0))
    max_supply = _Number(least=Decimal(0))

    def __init__(self, latest: datetime):
        super().__init__()
        self.latest = latest

    def quote(self, normalized: Mapping[str, Any]) -> Quote:
        """The quote that a normalized item is; raises Reject with a reason for every field that is wrong."""
        try:
            quote = Quote(**self.load(dict(normalized)))
        except ValidationError as error:
            reasons = list(_reasons(error))
            # It and the frame that raised it hold each other, and that one its callers with all that they have in hand:
            # whole pages, until the garbage collector comes by.
            error.__traceback__ = None
            raise Reject.because(reasons) from None
        if quote.high is not None and quote.low is not None and quote.high < quote.low:
            raise Reject("high", "high_below_low", f"expected no less than low ({quote.low}), got {quote.high}")
        return quote


def _reasons(error: ValidationError) -> Iterator[dict[str, str]]:
    for field, messages in error.normalized_messages().items():
        for message in messages if isinstance(messages, list) else [messages]:
            if isinstance(message, dict):
                yield {"field": field, **message}
            else:
                yield {"field": field, "code": "unknown_field", "detail": str(message)}
