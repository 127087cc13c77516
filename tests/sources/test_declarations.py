"""Test that a wrong member of a declaration is refused with one sentence that names what is expected, and where."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sources import declarations
from sources.contract import DeclarationError, History, Page, Rate, Retention, Source, Upstream
from sources.declarations import is_json, shown
from tests.upstreams import FETCHED, canned

DAY = timedelta(days=1)
URL = "https://prices.example.com/v1"
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    60,
    1.5,
    "",
    "60",
    b"x",
    [],
    ["a"],
    {},
    {"a": 1},
    {1: "a"},
    DAY,
    timedelta(0),
    object,
    len,
]


def history(**members: Any) -> History:
    source = canned()
    functions = {"fetch": lambda window, http: None, "parse": source.parse, "normalize": source.normalize}
    return History(**{"span": DAY, **functions, **members})


def page(**members: Any) -> Page:
    return Page(**{"body": b"", "content_type": "", "request": {}, "fetched_at": FETCHED, "cursor": None, **members})


MAKERS: dict[type, Callable[..., Any]] = {
    Source: lambda **members: replace(canned(), **members),
    Rate: Rate,
    Upstream: lambda **members: Upstream(**{"url": URL, **members}),
    Retention: Retention,
    History: history,
    Page: page,
}


@pytest.mark.parametrize(
    ("made", "members", "expected"),
    [
        (Upstream, {"url": "prices.example.com"}, "url must be a URL such as https://prices.example.com/v1"),
        (Upstream, {"url": "ftp://prices.example.com"}, "url must be a URL such as"),
        (Upstream, {"url": "https://user:password@prices.example.com"}, "without a password"),
        (Upstream, {"url": "https://prices.example.com?page=1"}, "url must be a URL such as"),
        (Upstream, {"url": "https://prices.example.com:port"}, "url must be a URL such as"),
        (Upstream, {"url": "https:///v1"}, "url must be a URL such as"),
        (Upstream, {"key_header": ""}, "key_header must be the name of a header"),
        (Rate, {"per_month": 1.5}, "per_month must be a whole number of 1 or more, or None for no limit, but is 1.5"),
        (Rate, {"per_minute": True}, "per_minute must be a whole number of 1 or more"),
        (Retention, {"bodies": -DAY}, "bodies must be a timedelta of more than 0"),
        (History, {"parse": None}, "parse must be a function, but is None"),
        (Source, {"every": timedelta(milliseconds=1)}, "every must be a timedelta of at least 0:00:01"),
        (Source, {"every": timedelta.max}, "and at most 366 days"),
        (Source, {"upstreams": [Upstream(URL)]}, "upstreams must be a mapping of names to Upstream"),
        (Source, {"upstreams": {"": Upstream(URL)}}, "upstreams must be a mapping of names to Upstream"),
        (Source, {"drift": {"price": ["freeze"]}}, "drift must be a mapping of fields to evolve"),
        (Source, {"history": DAY}, "history must be a History, or None"),
        (Source, {"name": None}, "source None: name must be a letter"),
        (Page, {"body": "text"}, "body must be a bytes, but is 'text'"),
        (Page, {"cursor": {"at": FETCHED}}, "cursor must be a JSON object"),
        (Page, {"cursor": {1: 2}}, "cursor must be a JSON object"),
        (Page, {"fetched_at": datetime(2026, 1, 1)}, "fetched_at must be an aware datetime"),  # noqa: DTZ001
    ],
)
def test_a_wrong_member_is_refused_with_what_is_expected(made: type, members: dict[str, Any], expected: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        MAKERS[made](**members)
    assert re.match(r"tests/sources/test_declarations\.py:\d+: ", str(raised.value))
    assert expected in str(raised.value)


@pytest.mark.parametrize("made", MAKERS, ids=lambda made: made.__name__)
def test_every_member_refuses_each_odd_value_or_accepts_it(made: type) -> None:
    """No value of any type raises another error than DeclarationError, and each member refuses some of them."""
    for member in fields(made):
        refused = 0
        for value in ODD:
            try:
                MAKERS[made](**{member.name: value})
            except DeclarationError:
                refused += 1
        assert refused >= 5, member.name


def test_a_value_is_shown_shortened_even_if_it_cannot_be_printed() -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise ValueError

    assert shown("x" * 1000) == f"'{'x' * 79}…"
    assert shown(Unprintable()) == "a Unprintable"
    assert shown(len) == "the function len"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, "x", None, True, 1.5, {"b": (1,)}]}, True),
        ({"a": float("nan")}, False),
        ({"a": {2: 1}}, False),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, False),
        ({"a": {1, 2}}, False),
    ],
)
def test_a_value_is_json_if_it_is_stored_unchanged(value: Any, expected: bool) -> None:
    assert is_json(value) == expected


def test_a_cyclic_value_is_not_json() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    assert not is_json(cycle)


def test_each_rule_belongs_to_a_member() -> None:
    rules = {Source: declarations.SOURCE, Rate: declarations.RATE, Upstream: declarations.UPSTREAM}
    for made, members in (*rules.items(), (Retention, declarations.RETENTION), (History, declarations.HISTORY)):
        assert members.keys() <= {member.name for member in fields(made)}
