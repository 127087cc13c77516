"""Test that any error in a source's mapping becomes a reject."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from sources.contract import Reject
from tasks.drift.mapping import map_item
from tests.upstreams import canned, item


class Unprintable(Exception):
    def __repr__(self) -> str:
        raise ValueError


def mapping_that_raises(error: BaseException) -> Callable[[Any], Any]:
    def normalize(_: Any) -> Any:
        raise error

    return normalize


def test_the_result_of_the_mapping_is_returned() -> None:
    assert map_item(canned(normalize=lambda fields: {**fields, "rank": 1}), item()) == {**item(), "rank": 1}


@pytest.mark.parametrize(
    ("normalize", "reason"),
    [
        (mapping_that_raises(KeyError("price")), "the mapping of canned failed: KeyError('price')"),
        (mapping_that_raises(ValueError("Größe")), "the mapping of canned failed: ValueError('Gr\\xf6\\xdfe')"),
        (mapping_that_raises(Unprintable()), "the mapping of canned failed: Unprintable"),
        (lambda _: None, "the mapping of canned returned NoneType, expected a mapping of fields"),
    ],
)
def test_a_mapping_that_fails_rejects_the_item(normalize: Callable[[Any], Any], reason: str) -> None:
    with pytest.raises(Reject) as reject:
        map_item(canned(normalize=normalize), item())
    [found] = reject.value.reasons
    assert (found["field"], found["code"]) == ("", "unmappable")
    assert re.fullmatch(rf"{re.escape(reason)} \(tests/tasks/drift/test_mapping\.py:\d+\)", found["detail"])


def test_a_misspelt_name_of_the_item_is_corrected() -> None:
    with pytest.raises(Reject, match=r"KeyError\('pricee'\) \(tests/.+\); did you mean 'price'\?"):
        map_item(canned(normalize=lambda fields: fields["pricee"]), item())
    with pytest.raises(Reject, match=r"KeyError\('usdd'\) \(tests/.+\); did you mean 'usd'\?"):
        map_item(canned(normalize=lambda fields: fields["quotes"]["usdd"]), {"quotes": {"usd": 1}})


@pytest.mark.parametrize("error", [Reject("price", "odd", "expected a price"), SoftTimeLimitExceeded()])
def test_a_reject_or_a_time_limit_raised_by_the_mapping_is_raised_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        map_item(canned(normalize=mapping_that_raises(error)), item())
    assert raised.value is error
