"""Test that a function that cannot be called, or whose result would be lost, is refused at the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from sources.contract import DeclarationError
from tests.upstreams import canned


def nothing(window: Any, http: Any) -> Any:
    return None


def listed(window: Any, http: Any) -> Any:
    return [http]


def mixed(window: Any, http: Any) -> Any:
    if window:
        return [http]
    yield http


def mixed_parse(page: Any) -> Any:
    if page:
        return page.items
    yield page


async def later(window: Any, http: Any) -> Any:
    return window


def generated(item: Any) -> Iterator[Any]:
    yield item


def with_inner(window: Any, http: Any) -> Any:
    def inner() -> list[int]:
        return [1]

    return iter(inner())


def with_end(window: Any, http: Any) -> Iterator[Any]:
    if window:
        return
    yield http


@pytest.mark.parametrize(
    ("member", "function", "message"),
    [
        ("fetch", nothing, "fetch must yield pages, but returns none in line"),
        ("fetch", listed, "fetch must yield pages, but returns none in line"),
        ("fetch", mixed, "fetch yields and also returns a value in line"),
        ("parse", mixed_parse, "parse yields and also returns a value in line"),
        ("fetch", later, "fetch must be a plain function, but is async"),
        ("normalize", generated, "normalize must return a dict of fields, but yields; use return"),
        ("format", generated, "format must return text, but yields; use return"),
        ("columns", generated, "columns must return Columns or None, but yields; use return"),
        ("fetch", lambda http: iter(()), "fetch must be a function such as fetch(window, http), but is"),
        ("partitions", lambda window: (), "partitions must be a function such as partitions(), but is"),
        ("parse", 5, "parse must be a function, but is 5"),
    ],
)
def test_a_function_that_loses_its_result_is_refused(member: str, function: Any, message: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        replace(canned(), **{member: function})
    assert message in str(raised.value)
    assert str(raised.value).startswith("tests/sources/test_functions.py:")


@pytest.mark.parametrize(
    "function", [with_inner, with_end, lambda window, http: iter(()), partial(with_end), lambda *_: iter(())]
)
def test_a_function_that_returns_an_iterator_is_accepted(function: Callable[..., Any]) -> None:
    assert replace(canned(), fetch=function).fetch is function


def test_a_built_in_function_is_accepted() -> None:
    assert replace(canned(), normalize=dict).normalize is dict
