"""Test that only statistically significant changes are detected, and accepted changes are not detected again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tasks.drift.changes import Change, evolve, find_changes, rename_confidence
from tasks.drift.profile import MAX_FIELDS, FieldProfile, FieldStats, profile_items


def numbers(*values: Any) -> FieldProfile:
    return profile_items([{"v": value} for value in values])


@pytest.mark.parametrize(
    ("before", "now", "kinds"),
    [
        ([1] * 250, ["n/a"] * 250, []),
        ([1] * 249 + ["odd"], ["odd"] * 250, ["retyped"]),
        (["1.5"] * 100, ["1,234.50", "$3", "7%", "1.2K"] * 25, []),
        (["0,5"] * 100, ["null", "-", ""] * 30, []),
        (["ABC"] * 100, ["42"] * 100, []),
        ([1] * 5, ["x"], []),
        ([1] * 5, ["x"] * 5, ["retyped"]),
        ([1] * 100, [True] * 100, ["retyped"]),
        (["1"] * 100, ["9" * 20_000 + "x"] * 100, ["retyped"]),
        ([1] * 100, ["x"] * 49 + [1] * 51, []),
        ([1] * 90 + ["x"] * 10, ["x"] * 100, []),
    ],
)
def test_a_field_is_retyped_if_chance_cannot_explain_its_types(
    before: list[Any], now: list[Any], kinds: list[str]
) -> None:
    assert [change.kind for change in find_changes(numbers(*before), numbers(*now))] == kinds


def test_a_rarely_missing_field_has_not_vanished_if_one_item_lacks_it() -> None:
    before = profile_items([{"id": 1, "v": 1}] * 99 + [{"id": 1}])
    assert find_changes(before, profile_items([{"id": 1}])) == []
    assert [change.kind for change in find_changes(before, profile_items([{"id": 1}] * 5))] == ["vanished"]


def test_a_field_that_was_often_missing_is_never_reported_as_vanished() -> None:
    before = profile_items([{"id": 1, "v": 1}] * 95 + [{"id": 1}] * 5)
    assert find_changes(before, profile_items([{"id": 1}] * 100)) == []


def test_a_page_without_items_has_no_changes() -> None:
    assert find_changes(numbers(1, 2), FieldProfile()) == []


def test_a_vanished_field_and_a_similar_new_field_are_one_renamed_field() -> None:
    before = profile_items([{"market_cap": 1000, "volume": 7}] * 50)
    page = profile_items([{"marketCap": 1001, "note": "x", "volume": 7}] * 50)
    assert find_changes(before, page) == [
        Change("renamed", "market_cap", was="number", became="marketCap", confidence=1.0),
        Change("new", "note", became="text"),
    ]


def test_each_field_is_part_of_only_its_most_likely_renaming() -> None:
    before = profile_items([{"price_usd": 5, "price_eur": 5}] * 50)
    page = profile_items([{"priceUsd": 5, "priceEur": 5}] * 50)
    assert {(change.kind, change.field, change.became) for change in find_changes(before, page)} == {
        ("renamed", "price_usd", "priceUsd"),
        ("renamed", "price_eur", "priceEur"),
    }


def test_different_names_or_values_lower_the_confidence_of_a_renaming() -> None:
    number, text = FieldStats(5, 0, Counter({"number": 5}), 3.0), FieldStats(5, 0, Counter({"text": 5}))
    far = FieldStats(5, 0, Counter({"number": 5}), 9.0)
    assert rename_confidence("price", number, "price", number) == 1.0
    assert rename_confidence("price", number, "id", text) < 0.6
    assert rename_confidence("price", number, "price", far) == pytest.approx(0.7)
    assert rename_confidence("price", text, "price", text) == pytest.approx(0.85)


def test_new_fields_are_detected_until_the_profile_is_full() -> None:
    before = profile_items([{f"f{number}": 1 for number in range(MAX_FIELDS - 1)}])
    page = profile_items([{"x": 1, "y": 1}])
    assert [change.field for change in find_changes(before, page) if change.kind == "new"] == ["x"]


@pytest.mark.parametrize(
    ("before", "page"),
    [
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"market_cap": 1}, {"marketCap": 1}),
        ({"a": 1}, {"a": "x"}),
    ],
    ids=["vanished", "new", "renamed", "retyped"],
)
@pytest.mark.parametrize("add_page", [True, False])
def test_an_accepted_change_is_not_detected_again(
    before: dict[str, Any], page: dict[str, Any], *, add_page: bool
) -> None:
    known, shown = profile_items([before] * 100), profile_items([page] * 10)
    changes = find_changes(known, shown)
    assert len(changes) == 1
    evolve(known, shown, changes, add_page=add_page)
    assert find_changes(known, shown) == []
    assert known.items == (110 if add_page else 100)


@pytest.mark.parametrize(
    ("change", "text", "new_name"),
    [
        (Change("new", "a", became="number"), "`a` appeared", "a"),
        (Change("vanished", "a", was="number"), "`a` vanished", None),
        (Change("renamed", "a", became="b", confidence=0.9), "`a` vanished, `b` appeared: 0.90", "b"),
        (Change("retyped", "a", was="number", became="text"), "`a` was number, is text", None),
    ],
)
def test_a_change_has_a_description_and_a_key(change: Change, text: str, new_name: str | None) -> None:
    assert str(change) == text
    assert change.new_name == new_name
    assert change.key == (change.kind, "a", change.became)
