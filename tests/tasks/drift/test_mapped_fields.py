"""Test that all fields that a mapping reads are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sources.contract import Reject
from tasks.drift.mapped_fields import MappedFields, mapped_fields
from tests.upstreams import canned

ITEM = {"id": "bitcoin", "price": {"usd": {"value": 1}, "eur": 2}, "rank": 3}


def read_and_reject(fields: Any) -> Any:
    raise Reject(fields["id"], "odd", "")


@pytest.mark.parametrize(
    ("normalize", "paths"),
    [
        (lambda fields: {"id": fields["id"]}, {"id"}),
        (lambda fields: {"id": fields.get("identifier", "none")}, {"identifier"}),
        (lambda fields: {"has_rank": "rank" in fields}, {"rank"}),
        (lambda fields: {"price": fields["price"]["usd"].get("value")}, {"price", "price.usd", "price.usd.value"}),
        (lambda fields: {"all": list(fields.items())}, {"id", "price", "rank"}),
        (lambda fields: {"all": list(fields["price"].values())}, {"price", "price.usd", "price.eur"}),
        (lambda fields: {**fields["price"]}, {"price", "price.usd", "price.eur"}),
        (lambda fields: {"all": dict(fields["price"])}, {"price", "price.usd", "price.eur"}),
        (read_and_reject, {"id"}),
        (lambda fields: fields, set()),
    ],
)
def test_each_access_is_recorded_with_its_path(normalize: Callable[[Any], Any], paths: set[str]) -> None:
    assert mapped_fields(canned(normalize=normalize), [ITEM, "not an object"]).paths == paths


def test_the_fields_read_from_all_items_are_combined() -> None:
    def normalize(fields: Any) -> Any:
        return {"price": fields["new"] if "new" in fields else fields["old"]}

    assert mapped_fields(canned(normalize=normalize), [{"old": 1}, {"new": 1}]).paths == {"new", "old"}


def test_a_mapping_that_reads_no_single_field_may_read_any_field() -> None:
    assert MappedFields({"price"}).may_include("price")
    assert not MappedFields({"price"}).may_include("rank")
    assert MappedFields().may_include("rank")
