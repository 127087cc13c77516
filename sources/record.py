"""Define the unified record, and validate normalized items one by one: each becomes a quote or a reject. Pure.

An invalid value of a side field is dropped: it becomes null, and the quote keeps its price (sources/record_rules.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

from marshmallow import RAISE, Schema, ValidationError, fields
from marshmallow.types import ErrorMessages

from sources.contract import Reject
from sources.key_text import clean_key_text, is_broken
from sources.record_rules import CONTRADICTION_RULES, SIDE_FIELDS, find_contradictions

EARLIEST = datetime(2009, 1, 3, tzinfo=UTC)
"""The day of Bitcoin's first block. An earlier time has a wrong unit or is a default date."""

LARGEST, SMALLEST = Decimal("1e40"), Decimal("1e-60")
"""The bounds of a number other than 0. A number beyond them is an error, and could take a megabyte when written out."""

MAX_DIGITS = 100
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?0*\d{1,4})?", re.ASCII)
CURRENCY = re.compile(r"[A-Z0-9]{2,12}", re.ASCII)
UNKNOWN_FIELD = "expected a field of the unified record; `normalize` must return no others"


@dataclass(frozen=True, slots=True)
class Quote:
    """The unified record: the price of one listing at one time, with related values.

    The first six fields are required. None means unknown, or that an invalid value was dropped. Money is in
    `quote_currency`, supplies are in coins, and `change_24h_pct` is in percent.
    """

    source_asset_id: str
    """The source's own id of the asset, 1 to 200 characters."""

    symbol: str
    name: str
    """`symbol` has 1 to 100 characters, `name` 1 to 300. Both help to find the same asset in other sources."""

    quote_currency: str
    """2 to 12 letters and digits, such as USD or USDT; stored in upper case."""

    observed_at: datetime
    """When the price was observed (aware, UTC)."""

    price: Decimal
    """Above 0."""

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
"""The text fields that identify a listing, and the numeric fields with a quote's values."""


@dataclass(frozen=True, slots=True)
class UnreadableValue:
    """A value that is not in its source's declared format. `normalize` returns it in place of the value."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class DroppedValue:
    """An invalid value of a side field, which is not stored."""

    field: str
    code: str
    detail: str


class Judgment(NamedTuple):
    """A quote, and the values that were dropped from its item."""

    quote: Quote
    dropped: list[DroppedValue]


def _field_error(code: str, detail: str) -> ValidationError:
    return ValidationError([{"code": code, "detail": detail}])


def _quoted(value: Any) -> str:
    """Return a value as text for messages, with at most 60 characters."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # An int of thousands of digits, or a deeply nested list.
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}…"


class _Coded(fields.Field[Any]):
    """A field whose errors all have a code. marshmallow's own messages for missing values have none."""

    default_error_messages: ErrorMessages = {  # noqa: RUF012 — declared as in marshmallow
        "required": {"code": "missing", "detail": "expected a value, got none"},
        "null": {"code": "missing", "detail": "expected a value, got none"},
    }


class _Text(_Coded):
    def __init__(self, max_length: int):
        super().__init__(required=True)
        self.max_length = max_length

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if not isinstance(value, str):
            raise _field_error("not_text", f"expected text, got {_quoted(value)}")
        text = clean_key_text(value)
        if not text:
            raise _field_error("empty", "expected text, got none")
        if len(text) > self.max_length:
            raise _field_error("too_long", f"expected at most {self.max_length} characters, got {len(text)}")
        if is_broken(text):
            raise _field_error("encoding", f"expected text without control or broken characters, got {_quoted(value)}")
        return text


class _Currency(_Text):
    def __init__(self) -> None:
        super().__init__(max_length=12)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        code = super()._deserialize(value, attr, data, **kwargs).upper()
        if not CURRENCY.fullmatch(code):
            raise _field_error("not_a_currency", f"expected a currency code such as USD, got {_quoted(value)}")
        return code


class _Number(_Coded):
    """A number: a Decimal, an int, or text in plain or exponent notation, but no float. All digits are kept."""

    def __init__(self, minimum: Decimal | None = None, *, required: bool = False):
        super().__init__(required=required, allow_none=not required)
        self.minimum = minimum

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> Decimal:
        if isinstance(value, UnreadableValue):
            raise _field_error(value.code, value.detail)
        if isinstance(value, str) and len(value) <= 2 * MAX_DIGITS and PLAIN_NUMBER.fullmatch(value.strip()):
            number = Decimal(value.strip())
        elif isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
            number = Decimal(value)
        else:
            raise _field_error("not_a_number", f"expected a number, got {_quoted(value)}")
        if not number.is_finite() or (number and not SMALLEST <= number.copy_abs() <= LARGEST):
            raise _field_error(
                "out_of_range", f"expected a number between {SMALLEST} and {LARGEST}, got {_quoted(value)}"
            )
        if len(number.as_tuple().digits) > MAX_DIGITS:
            raise _field_error(
                "out_of_range", f"expected at most {MAX_DIGITS} digits, got {len(number.as_tuple().digits)}"
            )
        if self.minimum is not None and number < self.minimum:
            raise _field_error("negative", f"expected {self.minimum} or more, got {_quoted(value)}")
        return number


class _Price(_Number):
    default_error_messages: ErrorMessages = {  # noqa: RUF012 — declared as in marshmallow
        "required": {"code": "no_price", "detail": "expected a price, got none"},
        "null": {"code": "no_price", "detail": "expected a price, got none"},
    }

    def __init__(self) -> None:
        super().__init__(required=True)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Decimal:
        price = super()._deserialize(value, attr, data, **kwargs)
        if price <= 0:
            raise _field_error("not_positive", f"expected a price above 0, got {_quoted(value)}")
        return price


class _Rank(_Number):
    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        rank = super()._deserialize(value, attr, data, **kwargs)
        if rank != rank.to_integral_value() or not 1 <= rank < 2**31:
            raise _field_error("not_a_rank", f"expected a whole number of 1 or more, got {_quoted(value)}")
        return int(rank)


class _Time(_Coded):
    """A time: an aware datetime, or RFC 3339 text with an offset."""

    def __init__(self) -> None:
        super().__init__(required=True)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> datetime:
        at = _as_utc(value)
        if at is None:
            raise _field_error("not_a_time", f"expected a time with its offset from UTC, got {_quoted(value)}")
        if at < EARLIEST:
            raise _field_error("too_early", f"expected a time from {EARLIEST:%Y-%m-%d} on, got {at.isoformat()}")
        latest = cast(Record, self.parent).latest
        if at > latest:
            raise _field_error("in_future", f"expected a time until {latest.isoformat()}, got {at.isoformat()}")
        return at


def _as_utc(value: Any) -> datetime | None:
    """Return an aware datetime, or a text with an offset, as a time in UTC; None for anything else."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        return time.astimezone(UTC) if time.tzinfo else None
    except (ValueError, AttributeError, OverflowError):
        return None


class QuoteKey(NamedTuple):
    """The key of a quote within its source."""

    source_asset_id: str
    quote_currency: str
    observed_at: datetime


class Record(Schema):
    """The row validator for normalized items. All items must have been fetched at the same time.

    latest: the latest time allowed for an observation: the time of the fetch plus the allowed clock skew.
    """

    class Meta:
        unknown = RAISE

    source_asset_id = _Text(max_length=200)
    symbol = _Text(max_length=100)
    name = _Text(max_length=300)
    quote_currency = _Currency()
    observed_at = _Time()
    price = _Price()
    open = _Number(minimum=Decimal(0))
    high = _Number(minimum=Decimal(0))
    low = _Number(minimum=Decimal(0))
    volume_24h = _Number(minimum=Decimal(0))
    market_cap = _Number(minimum=Decimal(0))
    change_24h_pct = _Number()
    rank = _Rank()
    circulating_supply = _Number(minimum=Decimal(0))
    total_supply = _Number(minimum=Decimal(0))
    max_supply = _Number(minimum=Decimal(0))

    def __init__(self, latest: datetime):
        super().__init__()
        self.latest = latest

    def judge(self, normalized: Mapping[str, Any]) -> Judgment:
        """Return a normalized item as a quote; raise Reject with a reason for each field that refuses it."""
        dropped: list[DroppedValue] = []
        try:
            values = self.load(dict(normalized))
        except ValidationError as error:
            reasons, values = _sorted_reasons(error), error.valid_data
            # The error and its traceback refer to each other. Through the frames of its callers, this cycle would keep
            # whole pages in memory until the next garbage collection.
            error.__traceback__ = None
            if refusing := [reason for reason in reasons if _refuses(reason["field"], normalized)]:
                raise Reject.because(refusing, normalized) from None
            dropped += [DroppedValue(**reason) for reason in reasons]
        quote = Quote(**cast(dict[str, Any], values))
        contradictions = list(_contradicting(quote))
        if contradictions:
            nulls: dict[str, Any] = dict.fromkeys(value.field for value in contradictions)
            quote = replace(quote, **nulls)
        return Judgment(quote, dropped + contradictions)

    def key(self, normalized: Mapping[str, Any]) -> QuoteKey | None:
        """Return the key of an item that may have other invalid fields; None if its listing or time is unreadable.

        The time may be outside the bounds of a valid quote.
        """
        try:
            listing, currency = (
                str(self.fields[name].deserialize(normalized.get(name)))
                for name in ("source_asset_id", "quote_currency")
            )
        except ValidationError:
            return None
        at = _as_utc(normalized.get("observed_at"))
        return None if at is None else QuoteKey(listing, currency, at)


def _refuses(field: str, normalized: Mapping[str, Any]) -> bool:
    """Return whether an invalid value refuses its item. A float is a bug of the source, whatever its field."""
    return field not in SIDE_FIELDS or isinstance(normalized.get(field), float)


def _contradicting(quote: Quote) -> Iterator[DroppedValue]:
    for code, detail in find_contradictions(quote):
        for field in CONTRADICTION_RULES[code].dropped:
            if getattr(quote, field) is not None:
                yield DroppedValue(field, code, detail)


def _sorted_reasons(error: ValidationError) -> list[dict[str, str]]:
    """Return the reasons of a reject, unknown fields first: a misspelt field is also the reason why one is missing."""
    return sorted(_reasons(error), key=lambda reason: reason["code"] != "unknown_field")


def _reasons(error: ValidationError) -> Iterator[dict[str, str]]:
    """Convert marshmallow's messages to the reasons of a reject. Only messages for unknown fields have no code yet."""
    for field, messages in error.normalized_messages().items():
        for message in messages if isinstance(messages, list) else [messages]:
            if isinstance(message, dict):
                yield {"field": field, **message}
            else:
                close = get_close_matches(field, _NAMES, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                yield {"field": field, "code": "unknown_field", "detail": f"{UNKNOWN_FIELD}{hint}"}
