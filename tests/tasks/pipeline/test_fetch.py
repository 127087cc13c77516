"""Test that pages pass through unchanged, and that each failure of `fetch` names its line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sources.contract import TerminalError, TransientError, Window
from tasks.pipeline.fetch import fetch_pages
from tests.upstreams import FETCHED, canned

WINDOW = Window("run", "", None, FETCHED)
NO_HTTP: Any = None


def test_the_pages_of_a_source_are_yielded() -> None:
    source = canned([1], [2])
    assert [page.body for page in fetch_pages(source, WINDOW, NO_HTTP)] == [b"[1]", b"[2]"]


def yields_text(window: Window, http: Any) -> Iterator[Any]:
    yield "text"


def returns_list(window: Window, http: Any) -> Any:
    pages: Any = [1]
    return pages


def divides(window: Window, http: Any) -> Iterator[Any]:
    yield 1 // 0


@pytest.mark.parametrize(
    ("fetch", "detail"),
    [
        (yields_text, "but yielded a str (tests/tasks/pipeline/test_fetch.py:"),
        (returns_list, "must yield pages, but returned a list; replace return with yield"),
        (divides, "ZeroDivisionError: "),
    ],
)
def test_a_wrong_fetch_is_an_error_with_its_line(fetch: Any, detail: str) -> None:
    source = canned()
    object.__setattr__(source, "fetch", fetch)
    with pytest.raises(TerminalError) as raised:
        list(fetch_pages(source, WINDOW, NO_HTTP))
    assert raised.value.code == "source_error"
    assert detail in raised.value.detail
    assert "test_fetch.py:" in raised.value.detail


def test_the_errors_of_the_contract_pass() -> None:
    def refuse(number: int) -> None:
        raise TransientError("later")

    with pytest.raises(TransientError, match="later"):
        list(fetch_pages(canned([1], before=refuse), WINDOW, NO_HTTP))
