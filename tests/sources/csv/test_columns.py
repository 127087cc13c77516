"""Test that reading columns gives the same items as reading rows. `Folder.validate` asserts this for each page."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.record_columns import validate_columns
from tests.sources.csv_folder import Folder, daily_files
from tests.sources.records import LATEST


@tried(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([3, 3, 3, 1, 2, 4, 6]), max_size=30), st.booleans())
def test_columns_and_rows_give_the_same_items_for_any_number_of_cells(
    path: Path, widths: list[int], is_quoted: bool
) -> None:
    folder = Folder(path, daily_files())
    cells = ["2024-01-02", '"5"' if is_quoted else "5", *"abcd"]
    folder.write("file.csv", "day,price,more\n" + "".join(f"{','.join(cells[:width])}\n" for width in widths))
    assert folder.read("file.csv").codes == ({"ragged": len(widths) - widths.count(3)} if set(widths) - {3} else {})


@pytest.mark.parametrize("whitespace", [" ", "\t", "\v", "\f", "\u00a0", " \t "])
def test_whitespace_around_a_cell_is_removed(path: Path, whitespace: str) -> None:
    folder = Folder(path, daily_files())
    day, price = f"{whitespace}2024-01-02{whitespace}", f"{whitespace}5"
    folder.write("file.csv", f"day,price\n{day},{price}\n{whitespace},{whitespace}\n")
    outcome = folder.read("file.csv")
    assert (outcome.prices, outcome.blank, outcome.rejects) == (["5"], 1, [])


@pytest.mark.parametrize("first", ["short", "a,b,c", "", "2024-01-01,4"])
def test_a_byte_order_mark_in_the_middle_of_a_file_makes_its_cell_invalid(path: Path, first: str) -> None:
    folder = Folder(path, daily_files())
    folder.write("file.csv", f"day,price\n{first}\n\ufeff2024-01-02,5\n2024-01-03,6\n")
    outcome = folder.read("file.csv")
    assert outcome.prices == (["4", "6"] if first.startswith("2024") else ["6"])
    assert outcome.codes["not_a_time"] == 1


def test_a_typical_file_needs_no_row_validation(path: Path) -> None:
    folder = Folder(path, daily_files())
    folder.write("file.csv", "day,price\n" + "".join(f"2024-01-{day:02},{day}.5\n" for day in range(1, 29)))
    [page] = folder.scan("file.csv")
    assert folder.source.columns is not None
    columns = folder.source.columns(page)
    assert columns is not None
    assert (len(columns.frame), columns.items_without_row) == (28, {})
    assert validate_columns(columns.frame, LATEST).undecided == []
