"""Test that text is split line by line only if each line is certainly one record.

Otherwise, a line end inside a quoted cell would split the cell.
"""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.csv.quoting import has_longer_line, has_plain_line_ends, has_record_per_line, remove_quoted

TEXTS = st.text(st.sampled_from('a1,"\n\r'), max_size=40).map(str.encode)


@given(TEXTS)
def test_text_with_one_record_per_line_can_be_split_line_by_line(text: bytes) -> None:
    if has_record_per_line(text, ","):
        lines = text.decode().splitlines(keepends=True)
        assert list(csv.reader(lines)) == [record for line in lines for record in csv.reader([line])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1,2\n3,4\n", True),
        (b'1,"2"\r\n"3",4\r\n', True),
        (b'1,"a ""b"""\n', True),
        (b"", False),
        (b"1,2\r3,4\n", False),
        (b'1,"2\n3",4\n', False),
        (b'1,2"3"\n', False),
        (b'1,"2"3\n', False),
        (b'1,"2\n', False),
    ],
)
def test_only_text_with_regular_quotes_and_line_ends_has_one_record_per_line(text: bytes, expected: bool) -> None:
    assert has_record_per_line(text, ",") is expected


def test_a_quoted_cell_is_removed_together_with_its_delimiters() -> None:
    assert remove_quoted(b'1,"a,b",3\n', ",") == b"1,,3\n"
    assert remove_quoted(b'1,"a""b",3\n', ",") == b"1,,3\n"
    assert remove_quoted('1§"a"§3\n'.encode(), "§") is None


@pytest.mark.parametrize(
    ("text", "expected"), [(b"a\nb\n", True), (b"a\r\nb\r\n", True), (b"a\rb", False), (b"a\r\r\n", False)]
)
def test_a_lone_carriage_return_is_not_a_plain_line_end(text: bytes, expected: bool) -> None:
    assert has_plain_line_ends(text) is expected


@pytest.mark.parametrize(("max_bytes", "expected"), [(4, True), (5, False), (6, False)])
def test_the_length_of_a_line_includes_its_line_end(max_bytes: int, expected: bool) -> None:
    assert has_longer_line(b"12\n1234\n1\n", max_bytes) is expected
