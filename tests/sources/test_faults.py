"""Test that an error of a source is described by its text, file and line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from sources import faults
from sources.contract import Page
from sources.faults import OWN_MODULES, WrongResult, author_line, describe_error, did_you_mean, name_hint
from sources.registry import MODULES
from tests.upstreams import FETCHED, canned


def raised_by(action: Any) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 — any error of the action
        action()
    return raised.value


def test_the_last_line_of_the_author_is_named_even_if_a_library_raised_the_error() -> None:
    def parse(page: Page) -> Any:
        return Path(f"/nowhere/{page}").read_text()

    line = inspect.getsourcelines(parse)[1] + 1
    error = raised_by(lambda: parse(Page(b"", "", {}, FETCHED, None)))
    assert author_line(error, canned()) == f"tests/sources/test_faults.py:{line}"


def test_an_error_within_kasparro_alone_has_no_line_of_an_author() -> None:
    assert author_line(ZeroDivisionError(), canned()) is None


def test_a_wrong_result_names_the_definition_of_its_function() -> None:
    source = canned()
    line = source.fetch.__code__.co_firstlineno
    assert author_line(WrongResult("fetch", "must yield pages"), source) == f"tests/upstreams.py:{line}"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("price"), "KeyError: 'price'"),
        (ValueError("a\n  b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (Unprintable(), "Unprintable"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}…"),
        (WrongResult("parse", "must return items"), "parse must return items"),
    ],
)
def test_an_error_is_described_in_one_short_line(error: Exception, text: str) -> None:
    assert describe_error(error) == text


def test_a_name_is_suggested_only_for_a_missing_key() -> None:
    assert name_hint(KeyError("tikcer"), {"ticker": 1}) == "; did you mean 'ticker'?"
    assert name_hint(KeyError("tikcer"), ["ticker"]) == ""
    assert name_hint(KeyError(5), {"ticker": 1}) == ""
    assert name_hint(ValueError("tikcer"), {"ticker": 1}) == ""
    assert did_you_mean("zzz", ("ticker",)) == ""


def test_the_own_modules_are_those_that_declare_no_source() -> None:
    names = {f"sources.{file.stem}" for file in Path(faults.__file__).parent.glob("*.py") if file.stem != "__init__"}
    assert names - set(MODULES) == OWN_MODULES
