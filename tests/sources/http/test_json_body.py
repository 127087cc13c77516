"""Test that JSON numbers are parsed exactly, and that only an empty list is an empty page."""

from __future__ import annotations

import json
from bisect import bisect
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.contract import Page, TransientError
from sources.http.json_body import json_list
from sources.http.words import quote_words
from tasks.pipeline.normalize import normalize_page
from tests.upstreams import FETCHED, canned, item

decimals = st.decimals(allow_nan=False, allow_infinity=False)

plain = st.none() | st.booleans() | st.text() | st.integers()


@tried(deadline=None)
@given(st.lists(decimals | st.integers(), min_size=1))
@example([Decimal("1e400"), Decimal("-1E-400"), Decimal("3e-9"), Decimal("0.1"), Decimal("1." + "0" * 500)])
@example([2**63, 2**64, -(2**63) - 1, 10**4299, 420690000000000000])
@pytest.mark.parametrize("extra", ["", ", NaN"], ids=["JSON", "with NaN"])
def test_every_number_is_parsed_exactly(extra: str, numbers: list[Decimal | int]) -> None:
    body = f"[{', '.join(map(str, numbers))}{extra}]"
    read = json_list(body.encode())[: len(numbers)]
    assert [Decimal(number).as_tuple() for number in read] == [Decimal(number).as_tuple() for number in numbers]


@pytest.mark.parametrize("text", ["0.1", "1e5", "1E+2", "-0.0", "70187", "1e-7", "1e99999999999999999999", "9" * 5000])
@pytest.mark.parametrize("extra", ["", ", Infinity"], ids=["JSON", "with Infinity"])
def test_a_number_is_never_parsed_as_a_float(text: str, extra: str) -> None:
    assert not any(type(number) is float for number in json_list(f"[{text}{extra}]".encode()))


@tried(deadline=None)
@given(st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
@pytest.mark.parametrize("extra", [[], [float("nan")]], ids=["JSON", "with NaN"])
def test_other_values_are_parsed_as_by_the_standard_library(extra: list[float], value: Any) -> None:
    assert json_list(json.dumps([value, *extra]).encode())[0] == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{}",
        b"null",
        b"0",
        b'"[]"',
        b"NaN",
        b'{"status":{"error_code":429,"error_message":"You\'ve exceeded the Rate Limit."}}',
        b'{"error":"id not found"}',
        b"<!DOCTYPE html><title>Just a moment</title>",
        b"[1, 2",
        b"[1] [2]",
        b"\xff\xfe[\x00]\x00",
        b"\x1f\x8b\x08\x00",
        b"[" + b"\x00" * 10,
        b"\xef\xbb\xbf",
    ],
    ids=ascii,
)
def test_a_body_that_is_not_a_list_is_a_transient_error(body: bytes) -> None:
    with pytest.raises(TransientError) as caught:
        json_list(body)
    assert caught.value.code == "unexpected_body"
    assert caught.value.detail in {f"expected {what}, got {quote_words(body)}" for what in ("JSON", "a list")}


def test_an_error_quotes_only_the_beginning_of_the_body() -> None:
    with pytest.raises(TransientError) as caught:
        json_list(b"<html>" + b"x" * 1_000_000)
    assert len(caught.value.detail) < 400


def test_an_empty_list_is_an_empty_page() -> None:
    assert json_list(b"[]") == []
    assert json_list(b"\xef\xbb\xbf[]") == []


@pytest.mark.parametrize("opening", [b"[", b'[{"a":', b"[NaN,"], ids=ascii)
def test_json_that_is_nested_too_deeply_is_a_transient_error(opening: bytes) -> None:
    with pytest.raises(TransientError, match="nested too deeply"):
        json_list(opening * 1_000_000)


def validated(*items: str) -> tuple[list[str], list[tuple[int, str, str]]]:
    """Return the ids of the valid items, and the (index, field, code) of each reject reason."""
    body = f"[{', '.join(items)}]".encode("utf-8", "surrogateescape")
    normalized = normalize_page(canned(), Page(body, "application/json", {}, FETCHED, None), clock_skew=0)
    reasons = [
        (reject.index, reason["field"], reason["code"]) for reject in normalized.rejects for reason in reject.reasons
    ]
    return [quote.source_asset_id for quote in normalized.quotes], reasons


def with_raw(field: str, raw: str) -> str:
    """Return an item as JSON, with this text as the value of a field. The text may be invalid JSON."""
    return json.dumps(item(1, **{field: "RAW"})).replace('"RAW"', raw)


@pytest.mark.parametrize(
    ("field", "raw", "code"),
    [
        ("price", "NaN", "out_of_range"),
        ("price", "-Infinity", "out_of_range"),
        ("price", "1e1000000", "out_of_range"),
        ("price", "1e99999999999999999999", "out_of_range"),
        ("price", "9" * 5000, "out_of_range"),
        ("price", "[" * 100 + "9" * 5000 + "]" * 100, "not_a_number"),
        ("name", "NaN", "not_text"),
        ("name", "1e99999999999999999999", "not_text"),
        ("name", '"\\ud800"', "encoding"),
        ("name", '"\udcff"', "encoding"),
        ("name", '"\\u0000"', "encoding"),
        ("color", "NaN", "unknown_field"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_value_that_is_invalid_in_json_rejects_only_its_item(field: str, raw: str, code: str) -> None:
    ids, reasons = validated(json.dumps(item(0)), with_raw(field, raw), json.dumps(item(2)))
    assert ids == ["coin-0", "coin-2"]
    assert reasons == [(1, field, code)]


def can_be_read(depth: int) -> bool:
    with suppress(TransientError):
        return bool(json_list(b"[" * depth + b"]" * depth))
    return False


def test_an_item_with_the_deepest_possible_nesting_rejects_only_itself() -> None:
    deepest = bisect(range(1, 100_000), 0, key=lambda depth: not can_be_read(depth + 1))
    results = []
    for depth in range(deepest - 200, deepest):
        with suppress(TransientError):
            results.append(validated(json.dumps(item(0)), with_raw("price", "[" * depth + "]" * depth)))
    assert len(results) > 100
    for ids, reasons in results:
        assert ids == ["coin-0"]
        assert [index for index, _, _ in reasons] == [1]
