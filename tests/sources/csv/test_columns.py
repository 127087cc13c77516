"""A block that is read as columns has the same items as row by row. `Folder.validate` asserts it for each page."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.record_columns import validate_columns
from tests.sources.csv_folder import Folder, daily_files
from tests.sources.test_record import LATEST


@tried(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([3, 3, 3, 1, 2, 4, 6]), max_size=30), st.booleans())
def test_lines_with_any_number_of_cells_have_the_same_items(path: Path, widths: list[int], is_quoted: bool) -> None:
    folder = Folder(path, daily_files())
    cells = ["2024-01-02", '"5"' if is_quoted else "5", *"abcd"]
    folder.write("file.csv", "day,price,more\n" + "".join(f"{','.join(cells[:width])}\n" for width in widths))
    assert folder.read("file.csv").codes == ({"ragged": len(widths) - widths.count(3)} if set(widths) - {3} else {})


@pytest.mark.parametrize("white_space", [" ", "\t", "\v", "\f", "\u00a0", " \t "])
def test_white_space_around_a_cell_is_not_part_of_it(path: Path, white_space: str) -> None:
    folder = Folder(path, daily_files())
    day, price = f"{white_space}2024-01-02{white_space}", f"{white_space}5"
    folder.write("file.csv", f"day,price\n{day},{price}\n{white_space},{white_space}\n")
    outcome = folder.read("file.csv")
    assert (outcome.prices, outcome.blank, outcome.rejects) == (["5"], 1, [])


@pytest.mark.parametrize("first", ["short", "a,b,c", "", "2024-01-01,4"])
def test_a_byte_order_mark_within_a_file_is_part_of_its_cell(path: Path, first: str) -> None:
    folder = Folder(path, daily_files())
    folder.write("file.csv", f"day,price\n{first}\n\ufeff2024-01-02,5\n2024-01-03,6\n")
    outcome = folder.read("file.csv")
    assert outcome.prices == (["4", "6"] if first.startswith("2024") else ["6"])
    assert outcome.codes["not_a_time"] == 1


def test_a_usual_file_needs_no_row_validation(path: Path) -> None:
    folder = Folder(path, daily_files())
    folder.write("file.csv", "day,price\n" + "".join(f"2024-01-{day:02},{day}.5\n" for day in range(1, 29)))
    [page] = folder.scan("file.csv")
    assert folder.source.columns is not None
    columns = folder.source.columns(page)
    assert columns is not None
    assert (len(columns.frame), columns.items_without_row) == (28, {})
    assert validate_columns(columns.frame, LATEST).undecided == []
