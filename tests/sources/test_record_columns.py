"""Test that the columnar validator and the row validator give the same quotes and rejects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import polars as pl
from hypothesis import example, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.contract import Page, Reject
from sources.record import DroppedValue, Quote, Record
from sources.record_columns import validate_columns
from tasks.pipeline.normalize import normalize_page, parse_columns
from tests.sources.records import FIELDS, LATEST, values
from tests.upstreams import canned, item


def words(text: str) -> list[str]:
    return text.split()


# Numbers and times in every notation, and similar texts that are invalid.
NUMBERS = st.sampled_from(
    [
        *words("1 +1 -1 0 -0 0.0 00.50 1. .5 . 1e5 1E-7 1e+40 1e41 1e-61 1e-400 1e400 1e00001 0e5 1e NaN nan Infinity"),
        *words("-inf 1e-000007 1_000 1,5 1.234,5 1,234.5 0x1 5.58B 46,88K 2M% -4.02% null １ ٣"),
        *("", " 7", "7 ", "\x1f1", "1\x1c", "\xa01", "1\x00", "9" * 101, "0." + "1" * 99),
    ]
) | st.from_regex(r"[+-]?[0-9]{1,3}(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,5})?", fullmatch=True)
TIMES = st.sampled_from(
    [
        *words("2024-01-02 2024-1-2 2024-02-30 2024-01-02T03:04:05.5 2024-01-02T03:04:05.1234567 2024-01-02T03:04:60"),
        *words("2024-01-02T24:00:00 2024-01-02T03:04:05Z 2024-01-02T03:04 2024-01-02T03:04:05+14:00 2024-01-02Z"),
        *words("20240102 2024-W01-2 2999-01-01 2008-01-01 0000-01-01 9999-12-31T23:59:59.999999 ２０２４-01-02"),
        *words("1704164645 1704164645000 +1704164645 1704164645.5 999999999999999999 02-01-2024 2-1-2024 day null"),
        *("2024-01-02 03:04:05", "2024-01-02 03:04:05+00:00", "Jan 02, 2024", "", " 2024-01-02", "2024-01-02\x1f"),
    ]
)


# Candles whose values are equal, nearly equal, or contradict each other, in several spellings.
CANDLES = st.fixed_dictionaries(
    {"price": st.sampled_from(SPELLINGS := words("1 1.0 1e0 2 2.00 3 3.9 4 4.1 100 0.000000001 9007199254740993"))},
    optional=dict.fromkeys(
        ("open", "high", "low"),
        st.none() | st.sampled_from([*SPELLINGS, "0", "-1", "x", "9007199254740992", "1.00000000000000000001"]),
    ),
)


class Rows(NamedTuple):
    """The result of the row validator: the sorted quotes, the index and reasons of each reject, and dropped values."""

    quotes: list[Quote]
    rejects: list[tuple[int, list[dict[str, str]]]]
    dropped: list[DroppedValue]


def row_by_row(items: Sequence[Any], latest: datetime) -> Rows:
    record, quotes, rejects, dropped = Record(latest), {}, [], []
    for index, normalized in enumerate(items):
        try:
            quote, values = record.judge(normalized)
        except Reject as reject:
            rejects.append((index, reject.reasons))
        else:
            quotes[quote.source_asset_id, quote.quote_currency, quote.observed_at] = quote
            dropped += values
    return Rows(sorted(quotes.values(), key=by_key), rejects, dropped)


def by_key(quote: Quote) -> Any:
    return quote.source_asset_id, quote.quote_currency, quote.observed_at


def without_line(reasons: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the reasons without the line of the mapping, which only the pipeline knows."""
    return [{**reason, "detail": re.sub(r" \(tests/upstreams\.py:\d+\)$", "", reason["detail"])} for reason in reasons]


def assert_same_result(items: Sequence[Any]) -> None:
    source = canned([], parse=lambda _: items)
    normalized = normalize_page(source, Page(b"", "", {}, LATEST, None), clock_skew=0)
    quotes, rejects, dropped = row_by_row(items, LATEST)
    assert sorted(normalized.quotes, key=by_key) == quotes
    assert [(reject.index, without_line(reject.reasons)) for reject in normalized.rejects] == rejects
    counts = Counter((value.field, value.code) for value in dropped)
    assert {(kind.field, kind.code): kind.count for kind in normalized.dropped} == counts
    assert normalized.fetched == len(items) == len(quotes) + len(rejects) + normalized.deduplicated


@tried(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from([*FIELDS, "unknown"]), values | NUMBERS | TIMES, max_size=6), max_size=4)
)
@example([{"price": Decimal("1e1000000")}, {"price": Decimal("sNaN")}, {"price": 10**5000}, {}])
@example([{"high": "1.00000000000000000001", "low": "1.00000000000000000002"}])
@example([{"high": "1.00000000000000000002", "low": "1.00000000000000000001"}])
@example([{"high": 1, "low": "1.0"}, {"high": "1", "low": True}, {"symbol": 5}, {"rank": "007"}, {"rank": "1.0"}])
@example([{"observed_at": LATEST}, {"observed_at": LATEST + timedelta(microseconds=1)}, {"name": "\ud800"}])
def test_any_items_give_the_same_result_as_the_row_validator(changes: list[dict[str, Any]]) -> None:
    assert_same_result([item(number, **fields) for number, fields in enumerate(changes)])


@tried(max_examples=300, deadline=None)
@given(st.lists(CANDLES, max_size=4))
@example(
    [{"price": "4.1", "open": "3", "high": "4", "low": "3"}, {"price": "3", "open": "4", "high": "4", "low": "3.9"}]
)
@example([{"price": "9007199254740993", "open": "9007199254740993", "high": "9007199254740992"}])
def test_any_candles_give_the_same_result_as_the_row_validator(candles: list[dict[str, Any]]) -> None:
    assert_same_result([item(number, **candle) for number, candle in enumerate(candles)])


@tried(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["abc", "\ufeffabc", "a\u200bbc", '"abc"', '="abc"', "é", "e\u0301", "a\x01"]), max_size=5)
)
def test_any_texts_give_the_same_result_as_the_row_validator(texts: list[str]) -> None:
    assert_same_result([item(source_asset_id=text, symbol=text) for text in texts])


def test_valid_candles_need_no_row_validation() -> None:
    spelled = [("1", "1.0", "1", "1.00"), ("2.5", "3", "2", "2.4"), ("0.5", "0.5", "1e-9", "0.50")]
    source = canned([], parse=lambda _: [])
    items = [
        item(index, **dict(zip(("open", "high", "low", "price"), values, strict=True)))
        for index, values in enumerate(spelled)
    ]
    tickers = [item(9, high="1.01", low="0.99", price="1.02")]
    frame = parse_columns(replace(source, parse=lambda _: items + tickers), Page(b"", "", {}, LATEST, None)).frame
    assert validate_columns(frame, LATEST).undecided == []


@tried(max_examples=120, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"source_asset_id": st.sampled_from("ab"), "price": NUMBERS, "observed_at": TIMES.map(lambda at: f"{at}Z")}
        ),
        max_size=8,
    )
)
def test_the_last_of_several_quotes_with_the_same_time_is_kept(changes: list[dict[str, Any]]) -> None:
    assert_same_result([item(**fields) for fields in changes])


def test_a_listing_gets_the_name_from_its_latest_quote() -> None:
    items = [
        item(price=str(price), name=name, observed_at=f"2026-01-0{price}T00:00:00Z")
        for price, name in ((1, "Old"), (2, "New"))
    ]
    source = canned([], parse=lambda _: items)
    quotes = normalize_page(source, Page(b"", "", {}, LATEST, None), clock_skew=0).quotes
    assert [(listing.name, listing.source_asset_id) for listing in quotes.listings] == [("New", "coin-0")]
    assert len(quotes) == 2


def test_every_doubtful_item_is_left_to_the_row_validator() -> None:
    keys = {
        "source_asset_id": "a",
        "symbol": "a",
        "name": "a",
        "quote_currency": "USD",
        "observed_at": "2024-01-02T00:00:00Z",
    }
    prices = ["1", "1e-400", "-1", "1e99", "x", None, "0"]
    frame = pl.DataFrame([{"item": index, **keys, "price": price} for index, price in enumerate(prices)])
    validated = validate_columns(frame, datetime(2026, 1, 1, tzinfo=UTC))
    assert (validated.accepted["item"].to_list(), validated.undecided) == ([0], [1, 2, 3, 4, 5, 6])
