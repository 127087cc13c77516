"""Test that the tables of the reference pages match the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.reference import generate

PAGES = sorted(generate.PAGES.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_of_each_page_match_the_code(page: Path) -> None:
    assert page.read_text() == generate.generated(page.read_text()), "run `make reference`"


def test_each_table_is_on_one_page() -> None:
    tables = [match[2] for page in PAGES for match in generate.TABLE.finditer(page.read_text())]
    assert sorted(tables) == sorted(generate.TABLES)
