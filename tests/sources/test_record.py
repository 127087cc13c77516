"""Test that every item becomes a valid quote or a reject with reasons."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.contract import Reject
from sources.record import EARLIEST, LARGEST, MAX_DIGITS, SMALLEST, Quote, QuoteKey, UnreadableValue
from sources.record_rules import SIDE_FIELDS
from tests.sources.records import (
    FIELDS,
    INFINITY,
    LATEST,
    NAN,
    NUMBERS,
    RECORD,
    TEXTS,
    TICK,
    code,
    codes,
    deep,
    dropped,
    validated,
    values,
)
from tests.upstreams import item


@tried(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=6))
@example({"price": Decimal("1e1000000")})
@example({"price": Decimal("-1e-1000000")})
@example({"price": 10**5000})
@example({"market_cap": [10**5000]})
@example({"name": deep})
@example({"rank": Decimal("sNaN")})
@example({"rank": "9" * 200})
@example({"price": "\ud800"})
@example({"observed_at": "\ud800"})
@example({"observed_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))})
@example({"observed_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))})
@example({"observed_at": "0001-01-01T00:00:00+01:00"})
@example({"observed_at": datetime.max.time().replace(tzinfo=UTC)})
@example({"quote_currency": "ß" * 7})
def test_every_item_becomes_a_quote_or_a_reject_with_reasons(changes: dict[str, Any]) -> None:
    result = validated(item(**changes))
    if isinstance(result, Quote):
        assert_can_be_stored(result)
    else:
        assert_reasons_are_valid(result, changes)


def assert_reasons_are_valid(reject: Reject, changes: dict[str, Any]) -> None:
    assert reject.reasons
    for reason in reject.reasons:
        assert set(reason) == {"field", "code", "detail"}
        assert reason["field"] in changes
        assert len(reason["detail"]) < 300
        assert "\x00" not in reason["detail"]
        json.dumps(reason, ensure_ascii=False).encode()


def assert_can_be_stored(quote: Quote) -> None:
    assert quote.observed_at.tzinfo is UTC
    assert EARLIEST <= quote.observed_at <= LATEST
    for field in TEXTS:
        text = getattr(quote, field)
        assert text == text.strip() != ""
        assert "\x00" not in text
        text.encode()
    for field in ("price", "change_24h_pct", *NUMBERS):
        number = getattr(quote, field)
        assert number is None or (type(number) is Decimal and number.is_finite())
        assert number is None or number == 0 or SMALLEST <= number.copy_abs() <= LARGEST
    assert quote.price > 0
    assert quote.rank is None or (type(quote.rank) is int and 1 <= quote.rank < 2**31)


@tried(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=SMALLEST, max_value=LARGEST, places=20))
def test_every_digit_of_a_number_is_kept_in_every_notation(number: Decimal) -> None:
    for price in (number, str(number), f"{number:f}", f"+{number:E}"):
        assert RECORD.judge(item(price=price)).quote.price.as_tuple() == number.as_tuple()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [True, False, 1.5, float("nan"), [], {}, {"a": 1}, b"1"], ids=repr)
def test_no_field_accepts_a_bool_a_float_a_list_an_object_or_bytes(field: str, value: Any) -> None:
    assert code(field, value) in {"not_text", "not_a_number", "not_a_time"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, ""),
        ("1", ""),
        (" 1 ", ""),
        ("+1.5e-3", ""),
        (".5", ""),
        ("5.", ""),
        (Decimal("-0"), ""),
        (LARGEST, ""),
        (int(LARGEST) + 1, "out_of_range"),
        (Decimal(int(LARGEST) + 1), "out_of_range"),
        (SMALLEST, ""),
        (Decimal("0." + "0" * 60 + "9" * 40), "out_of_range"),
        (Decimal("1e999999999999999999"), "out_of_range"),
        (Decimal("1e-999999999999999999"), "out_of_range"),
        (10**5000, "out_of_range"),
        ("1e9999", "out_of_range"),
        ("1e99999", "not_a_number"),
        (NAN, "out_of_range"),
        (Decimal("sNaN"), "out_of_range"),
        (INFINITY, "out_of_range"),
        ("NaN", "not_a_number"),
        ("Infinity", "not_a_number"),
        ("0x10", "not_a_number"),
        ("1,5", "not_a_number"),
        ("1_000", "not_a_number"),
        ("١", "not_a_number"),
        ("", "not_a_number"),
        ("null", "not_a_number"),
        ("0." + "1" * MAX_DIGITS, ""),
        ("0." + "1" * (MAX_DIGITS + 1), "out_of_range"),
        (Decimal("0." + "1" * 100_000), "out_of_range"),
        ("1" * 2 * MAX_DIGITS + "1", "not_a_number"),
        ("-1", "negative"),
        (-SMALLEST, "negative"),
    ],
    ids=lambda value: "int" if isinstance(value, int) else ascii(value)[:30],
)
def test_a_number_outside_the_bounds_or_in_another_format_is_invalid(value: Any, expected: str) -> None:
    assert code("market_cap", value) == expected


@pytest.mark.parametrize("field", NUMBERS)
def test_an_optional_number_may_be_null_missing_or_zero(field: str) -> None:
    assert getattr(RECORD.judge(item(**{field: None})).quote, field) is None
    assert getattr(RECORD.judge(item()).quote, field) is None
    # A high of 0 contradicts every price.
    assert getattr(RECORD.judge(item(**{field: 0})).quote, field) == (None if field == "high" else 0)
    assert code(field, -1) == "negative"


def test_a_percentage_change_may_be_negative_or_large() -> None:
    assert RECORD.judge(item(change_24h_pct=Decimal("-99.9"))).quote.change_24h_pct == Decimal("-99.9")
    assert RECORD.judge(item(change_24h_pct=9_084_142_000)).quote.change_24h_pct == 9_084_142_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "no_price"),
        (0, "not_positive"),
        ("0.0", "not_positive"),
        (Decimal("-0"), "not_positive"),
        (-1, "not_positive"),
        (SMALLEST, ""),
        ("", "not_a_number"),
    ],
)
def test_a_price_that_is_missing_or_not_above_zero_is_rejected(value: Any, expected: str) -> None:
    assert code("price", value) == expected


def test_an_item_without_a_price_is_rejected_with_the_code_no_price() -> None:
    normalized = item()
    del normalized["price"]
    assert codes(normalized) == [("price", "no_price")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (1, ""),
        ("7", ""),
        (Decimal("1E+2"), ""),
        (2**31 - 1, ""),
        (2**31, "not_a_rank"),
        (0, "not_a_rank"),
        (-1, "not_a_rank"),
        ("1.5", "not_a_rank"),
        (Decimal("1." + "0" * 50 + "1"), "not_a_rank"),
        (Decimal("9" * 41), "out_of_range"),
        (NAN, "out_of_range"),
    ],
    ids=repr,
)
def test_a_rank_is_a_whole_number_from_1(value: Any, expected: str) -> None:
    assert code("rank", value) == expected


def test_a_rank_is_stored_as_an_int() -> None:
    rank = RECORD.judge(item(rank=Decimal("1E+2"))).quote.rank
    assert (rank, type(rank)) == (100, int)


@pytest.mark.parametrize("field", TEXTS)
def test_a_text_that_is_empty_too_long_or_malformed_is_rejected(field: str) -> None:
    max_length = {"source_asset_id": 200, "symbol": 100, "name": 300}[field]
    assert code(field, "€" * max_length) == ""
    assert code(field, "x" * (max_length + 1)) == "too_long"
    assert code(field, None) == "missing"
    assert code(field, " \t\n\u00a0") == "empty"
    assert code(field, "a\x00b") == "encoding"
    assert code(field, "a\ud800b") == "encoding"
    assert code(field, 7) == "not_text"
    assert code(field, NAN) == "not_text"


def test_whitespace_around_a_text_is_removed() -> None:
    quote = RECORD.judge(
        item(source_asset_id=" btc ", symbol="\tBTC", name="Bit coin\r\n", quote_currency=" usd ")
    ).quote
    assert (quote.source_asset_id, quote.symbol, quote.name) == ("btc", "BTC", "Bit coin")
    assert quote.quote_currency == "USD"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("usd", ""),
        ("US", ""),
        ("U", "not_a_currency"),
        ("A1" * 6, ""),
        ("A" * 13, "too_long"),
        ("US-D", "not_a_currency"),
        ("ЕUR", "not_a_currency"),  # The first letter is Cyrillic.
        ("U\x00D", "encoding"),
        ("", "empty"),
        (None, "missing"),
    ],
)
def test_a_currency_has_2_to_12_letters_or_digits(value: Any, expected: str) -> None:
    assert code("quote_currency", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-01-01T00:00:00Z", ""),
        ("2024-01-01T00:00:00.123+05:30", ""),
        (EARLIEST, ""),
        (EARLIEST - TICK, "too_early"),
        (LATEST, ""),
        (LATEST.astimezone(timezone(timedelta(hours=14))), ""),
        (LATEST + TICK, "in_future"),
        ("1970-01-01T00:00:00Z", "too_early"),
        ("9999-12-31T23:59:59Z", "in_future"),
        ("9999-12-31T23:59:59-01:00", "not_a_time"),
        (datetime(2024, 1, 1), "not_a_time"),  # noqa: DTZ001 — a naive time is the test
        ("2024-01-01", "not_a_time"),
        ("2024-01-01T00:00:00", "not_a_time"),
        ("2024-02-30T00:00:00Z", "not_a_time"),
        ("yesterday", "not_a_time"),
        ("", "not_a_time"),
        (1_700_000_000, "not_a_time"),
        (None, "missing"),
    ],
    ids=str,
)
def test_a_time_needs_a_zone_and_must_be_within_the_bounds(value: Any, expected: str) -> None:
    assert code("observed_at", value) == expected


def test_a_time_is_converted_to_utc() -> None:
    quote = RECORD.judge(item(observed_at="2024-01-01T00:00:00.123456+05:30")).quote
    assert quote.observed_at == datetime(2023, 12, 31, 18, 30, 0, 123456, UTC)
    assert quote.observed_at.tzinfo is UTC


def test_an_item_with_invalid_side_values_keeps_its_price() -> None:
    normalized = item(market_cap=-1, max_supply=2**256 - 1, rank=0, change_24h_pct="Infinity", volume_24h={"a": 1})
    assert sorted(dropped(normalized)) == [
        ("change_24h_pct", "not_a_number"),
        ("market_cap", "negative"),
        ("max_supply", "out_of_range"),
        ("rank", "not_a_rank"),
        ("volume_24h", "not_a_number"),
    ]


@pytest.mark.parametrize("field", sorted(SIDE_FIELDS))
@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_a_float_refuses_the_item_even_in_a_side_field(field: str, value: float) -> None:
    assert codes(item(**{field: value})) == [(field, "not_a_number")]


def test_a_reject_has_one_reason_for_each_field_that_refuses_the_item() -> None:
    assert sorted(codes(item(symbol="", price=None, rank=0, low="much"))) == [
        ("price", "no_price"),
        ("symbol", "empty"),
    ]


def test_a_value_that_its_source_could_not_read_is_dropped_with_its_reason() -> None:
    [value] = RECORD.judge(item(low=UnreadableValue("not_a_number", "expected 1,5"))).dropped
    assert (value.field, value.code, value.detail) == ("low", "not_a_number", "expected 1,5")
    assert codes(item(price=UnreadableValue("not_a_number", "expected 1,5"))) == [("price", "not_a_number")]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"high": 2, "low": 3}, ["high", "low"]),
        ({"open": 9, "high": 2, "low": 3, "price": 9}, ["high", "low"]),
        ({"high": 3, "low": 3, "price": 3}, []),
        ({"open": 12, "high": 12, "low": 12, "price": 65457}, ["high", "low"]),
        ({"open": 2, "high": 1, "low": 1, "price": 1}, ["open"]),
        ({"open": 5, "high": 1, "low": 1, "price": 9}, ["open", "high", "low"]),
        ({"high": Decimal("1.01"), "low": Decimal("0.9"), "price": Decimal("1.02")}, []),
        ({"high": 12, "low": 12, "price": 65457}, ["high", "low"]),
        ({"high": 0, "low": 0}, ["high", "low"]),
        ({"open": 1, "high": 3, "price": 4}, ["high"]),
        ({"open": 1, "low": 3, "price": 2}, ["open", "low"]),
        ({"circulating_supply": 5, "total_supply": 4, "max_supply": 3}, []),
    ],
)
def test_values_that_contradict_each_other_are_dropped(values: dict[str, Any], expected: list[str]) -> None:
    assert [field for field, _ in dropped(item(**values))] == expected


def test_numbers_are_compared_exactly() -> None:
    low = "1." + "0" * 60 + "1"
    assert dropped(item(open=low, low=low, high=low, price="1")) == [
        ("high", "price_outside_range"),
        ("low", "price_outside_range"),
    ]
    assert dropped(item(open=low, low=low, high=low, price=low)) == []


def test_an_unknown_field_is_rejected() -> None:
    assert codes(item(color="red")) == [("color", "unknown_field")]


def test_a_reason_quotes_only_the_beginning_of_a_long_value() -> None:
    with pytest.raises(Reject) as caught:
        RECORD.judge(item(price="x" * 1_000_000))
    [reason] = caught.value.reasons
    assert reason["detail"] == f"expected a number, got 'xxx{'x' * 53}…"


def test_the_key_of_an_item_is_known_if_its_listing_and_time_are_readable() -> None:
    at = datetime(2024, 1, 1, tzinfo=UTC)
    key = QuoteKey("bitcoin", "USD", at)
    fields = {"source_asset_id": " bitcoin ", "quote_currency": "usd", "observed_at": "2024-01-01T00:00:00Z"}
    assert RECORD.key(fields) == key
    assert RECORD.key({**fields, "symbol": "", "price": "much"}) == key
    for name in fields:
        assert RECORD.key({**fields, name: None}) is None
        assert RECORD.key({other: value for other, value in fields.items() if other != name}) is None
    assert RECORD.key({**fields, "observed_at": "1999-01-01T00:00:00Z"}) is not None
    assert RECORD.key({**fields, "observed_at": "2024-01-01T00:00:00"}) is None
    with pytest.raises(Reject) as caught:
        RECORD.judge(item(price="much"))
    assert caught.value.record == item(price="much")
