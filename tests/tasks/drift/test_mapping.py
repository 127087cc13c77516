"""Whatever goes wrong in a source's mapping becomes a reject."""

from __future__ import annotations

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


def raising(error: BaseException) -> Callable[[Any], Any]:
    def normalize(_: Any) -> Any:
        raise error

    return normalize


def test_the_fields_of_the_mapping_are_returned() -> None:
    assert map_item(canned(normalize=lambda fields: {**fields, "rank": 1}), item()) == {**item(), "rank": 1}


@pytest.mark.parametrize(
    ("normalize", "reason"),
    [
        (raising(KeyError("price")), "the mapping of canned failed: KeyError('price')"),
        (raising(ValueError("Größe")), "the mapping of canned failed: ValueError('Gr\\xf6\\xdfe')"),
        (raising(Unprintable()), "the mapping of canned failed: Unprintable"),
        (lambda _: None, "the mapping of canned returned NoneType, expected a mapping of fields"),
    ],
)
def test_a_mapping_that_fails_rejects_the_item(normalize: Callable[[Any], Any], reason: str) -> None:
    with pytest.raises(Reject) as reject:
        map_item(canned(normalize=normalize), item())
    assert reject.value.reasons == [{"field": "", "code": "unmappable", "detail": reason}]


@pytest.mark.parametrize("error", [Reject("price", "odd", "expected a price"), SoftTimeLimitExceeded()])
def test_a_reject_of_the_mapping_and_the_time_limit_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        map_item(canned(normalize=raising(error)), item())
    assert raised.value is error
