"""Test that a policy discards a changed field or rejects its item, and does not change other items."""

from __future__ import annotations

from typing import Any

import pytest

from sources.contract import DriftPolicy, Reject
from tasks.drift.changes import Change
from tasks.drift.policy import PageDrift, is_affected

NEW = Change("new", "extra", became="number")
VANISHED = Change("vanished", "price", was="number")
RENAMED = Change("renamed", "price", was="number", became="cost", confidence=0.9)
RETYPED = Change("retyped", "price", was="number", became="text")
NESTED = Change("retyped", "quotes.usd.price", was="number", became="text")


class Row(dict[str, Any]):
    """An item that is not a plain dict."""


@pytest.mark.parametrize(
    ("change", "fields", "expected"),
    [
        (NEW, {"extra": 1}, True),
        (NEW, {"price": 1}, False),
        (VANISHED, {"rank": 1}, True),
        (VANISHED, {"price": None}, False),
        (RENAMED, {"cost": 1}, True),
        (RENAMED, {"price": 1, "cost": 1}, False),
        (RETYPED, {"price": "much"}, True),
        (RETYPED, {"price": 1}, False),
        (RETYPED, {"price": True}, False),
        (RETYPED, {}, False),
    ],
)
def test_an_item_is_affected_if_it_shows_the_change(change: Change, fields: dict[str, Any], expected: bool) -> None:
    assert is_affected(fields, change) is expected


@pytest.mark.parametrize(
    ("change", "item", "expected"),
    [
        (RETYPED, {"price": "much", "rank": 1}, {"price": None, "rank": 1}),
        (VANISHED, {"rank": 1}, {"price": None, "rank": 1}),
        (NESTED, {"quotes": {"usd": {"price": "much", "cap": 1}}}, {"quotes": {"usd": {"price": None, "cap": 1}}}),
        (NESTED, {"quotes.usd.price": "much"}, {"quotes.usd.price": None}),
        (
            NESTED,
            {"quotes": {"usd": {"cap": 1}}, "quotes.usd.price": "much"},
            {"quotes": {"usd": {"cap": 1}}, "quotes.usd.price": None},
        ),
        (RETYPED, {"price": 1}, {"price": 1}),
        (RETYPED, ["much"], ["much"]),
    ],
)
def test_discard_sets_the_field_to_null_in_affected_items(change: Change, item: Any, expected: Any) -> None:
    assert PageDrift([(change, "discard")]).apply(item) == expected


def test_discarding_a_field_returns_a_copy_of_the_same_class() -> None:
    item = Row(quotes=Row(usd=Row(price="much")))
    treated = PageDrift([(NESTED, "discard")]).apply(item)
    assert [type(treated), type(treated["quotes"]), type(treated["quotes"]["usd"])] == [Row] * 3
    assert item["quotes"]["usd"]["price"] == "much"


def test_quarantine_rejects_affected_items() -> None:
    drift = PageDrift([(RETYPED, "quarantine")])
    rejected = drift.apply({"price": "much"})
    assert isinstance(rejected, Reject)
    assert rejected.item == {"price": "much"}
    [reason] = rejected.reasons
    assert (reason["field"], reason["code"]) == ("price", "drift")
    assert "`price` was number, is text" in reason["detail"]
    assert drift.apply({"price": 1}) == {"price": 1}


@pytest.mark.parametrize("policies", [("discard", "quarantine"), ("quarantine", "discard")])
def test_an_item_with_several_changes_is_rejected_if_one_change_is_quarantined(
    policies: tuple[DriftPolicy, ...],
) -> None:
    drift = PageDrift(list(zip((NEW, VANISHED), policies, strict=True)))
    assert isinstance(drift.apply({"extra": 1}), Reject)
