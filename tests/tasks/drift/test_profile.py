"""Test that a profile counts the fields of items with their types and nulls, within limits."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from tasks.drift.profile import (
    MAX_COUNTED_ITEMS,
    MAX_DEPTH,
    MAX_FIELDS,
    FieldProfile,
    FieldStats,
    leaves,
    profile_items,
    type_of,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, "boolean"),
        (1, "number"),
        (1.5, "number"),
        (Decimal("1.5"), "number"),
        ([1], "list"),
        ({}, "object"),
        ("Bitcoin", "text"),
        ("", None),
        (" N/A ", None),
        ("-", None),
        ("1.5", "number as text"),
        ("-1,234.50", "number as text"),
        (" $3 ", "number as text"),
        (".5e-3", "number as text"),
        ("7 %", "number as text"),
        ("1.2K", "number as text"),
        ("1.2.x", "text"),
        ("٣", "text"),
        ("9" * 100, "number as text"),
        ("9" * 101, "text"),
    ],
)
def test_a_value_has_a_type_or_counts_as_null(value: Any, expected: str | None) -> None:
    assert type_of(value) == expected


def test_a_field_is_named_by_its_path() -> None:
    item = {"id": 1, "quotes": {"usd": {"price": 2}, "eur": {}}, "tags": [{"name": 3}]}
    assert dict(leaves(item)) == {"id": 1, "quotes.usd.price": 2, "quotes.eur": {}, "tags": [{"name": 3}]}


def test_an_object_that_is_nested_too_deeply_counts_as_one_value() -> None:
    item: Any = {"leaf": 1}
    for _ in range(MAX_DEPTH):
        item = {"a": item}
    assert list(leaves(item)) == [(".".join("a" * MAX_DEPTH), {"leaf": 1})]


@pytest.mark.parametrize("name", ["a\x00b", "half \ud83d of it", "x" * 201])
def test_a_field_with_a_name_that_cannot_be_stored_is_omitted(name: str) -> None:
    assert dict(leaves({name: 1, "outer": {name: 1}, "price": 2})) == {"price": 2}


def test_a_profile_counts_presence_nulls_and_types() -> None:
    profile = profile_items([{"a": 1, "b": None}, {"a": "x"}, {"a": "n/a", "b": 2}, "not an object"])
    assert profile.items == 3
    assert profile.fields["a"] == FieldStats(3, 1, Counter({"number": 1, "text": 1}), 0.0)
    assert profile.fields["b"] == FieldStats(2, 1, Counter({"number": 1}), 0.301)
    assert profile.fields["b"].main_type == "number"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([10, 1000, 100_000], 3.0), ([0, 0], None), (["-100"], 2.0), (["1,000"], None), (["x"], None), ([10**400], None)],
)
def test_the_magnitude_of_a_field_is_the_logarithm_of_its_median(values: list[Any], expected: float | None) -> None:
    assert profile_items([{"v": value} for value in values]).fields["v"].magnitude == expected


def test_a_profile_is_restored_from_its_json() -> None:
    profile = profile_items([{"a": 1, "b": None}, {"a": "x"}])
    stored = json.loads(json.dumps(profile.to_json()))
    assert FieldProfile.from_json(stored["items"], stored["fields"]) == profile


def test_the_counts_of_two_profiles_are_added() -> None:
    first, second = [{"a": 1}, {"a": None}], [{"a": "x", "b": 100}]
    profile = profile_items(first)
    profile.add(profile_items(second))
    assert profile.items == 3
    assert profile.fields["a"] == FieldStats(3, 1, Counter({"number": 1, "text": 1}), 0.0)
    assert profile.fields["b"] == FieldStats(1, 0, Counter({"number": 1}), 2.0)


def test_a_profile_has_a_limited_number_of_fields() -> None:
    many = [{f"f{number}": 1 for number in range(MAX_FIELDS + 1)}]
    profile = profile_items(many)
    assert len(profile.fields) == MAX_FIELDS
    profile.add(profile_items([{"f0": 1, "another": 1}]))
    assert len(profile.fields) == MAX_FIELDS
    assert profile.fields["f0"].present == 2


def test_the_counts_of_old_items_are_halved_at_the_maximum() -> None:
    stats = FieldStats(MAX_COUNTED_ITEMS, 10)
    stats.types.update({"number": MAX_COUNTED_ITEMS - 11, "text": 1})
    profile = FieldProfile(MAX_COUNTED_ITEMS, {"a": stats})
    profile.add(profile_items([{"a": 1}]))
    assert profile.items == MAX_COUNTED_ITEMS // 2
    assert (stats.present, stats.null) == (MAX_COUNTED_ITEMS // 2, 5)
    assert stats.types == {"number": (MAX_COUNTED_ITEMS - 10) // 2, "text": 1}
