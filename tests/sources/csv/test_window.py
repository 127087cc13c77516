"""Test the functions that read exact parts of a file, up to a given end."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from sources.contract import TransientError
from sources.csv.blocks import cut_blocks
from sources.csv.window import CHUNK_BYTES, ReadOptions, measure_line, read_bytes, read_lines
from tests.sources.csv_folder import Folder, daily_files

OPTIONS = ReadOptions(
    block_records=50,
    label="csv_test: file.csv",
    encoding="utf-8",
    delimiter=",",
    end=100,
    is_complete=True,
    block_bytes=1000,
    record_bytes=1000,
)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_a_line_end_between_two_chunks_of_a_long_line_is_found(tmp_path: Path, end: str) -> None:
    folder = Folder(tmp_path, daily_files())
    for length in range(CHUNK_BYTES - 2, CHUNK_BYTES + 2):
        folder.write("file.csv", f"day,price{end}{'x' * length}{end}2024-01-02,2{end}")
        outcome = folder.read("file.csv")
        assert (outcome.prices, outcome.codes, outcome.blank) == (["2"], {"record_too_large": 1}, 0)


def test_a_file_that_became_shorter_is_a_transient_error() -> None:
    with pytest.raises(TransientError, match=r"^csv_test: file\.csv: became shorter") as raised:
        list(cut_blocks(io.BytesIO(b"2024-01-01,1\n"), 0, 1, OPTIONS))
    assert raised.value.code == "file_changed"


def test_bytes_after_the_end_of_the_window_are_not_read() -> None:
    assert read_bytes(io.BytesIO(b"0123456789"), 2, 100, replace(OPTIONS, end=7)) == b"23456"


@pytest.mark.parametrize(
    ("text", "end", "lines", "is_at_end"),
    [
        (b"a\nb\nc", 5, [b"a\n", b"b\n"], True),
        (b"a\nb\nc", 4, [b"a\n", b"b\n"], True),
        (b"a\r\nb\r", 5, [b"a\r\n"], True),
        (b"a\rb\rc", 5, [b"a\r", b"b\r"], True),
        (b"0123456789\n", 11, [], False),
    ],
    ids=["no line end", "end at a line end", "half a line end", "carriage returns", "longer than requested"],
)
def test_only_complete_lines_are_returned(text: bytes, end: int, lines: list[bytes], is_at_end: bool) -> None:
    data, complete_lines, at_end = read_lines(io.BytesIO(text), 0, 10, replace(OPTIONS, end=end))
    assert (data, complete_lines, at_end) == (text[: min(10, end)], lines, is_at_end)


@pytest.mark.parametrize(
    ("text", "encoding", "length"),
    [
        (b"ab\ncd\n", "utf-8", 3),
        (b"ab\r\ncd", "utf-8", 4),
        (b"ab\rcd", "utf-8", 3),
        (b"ab\r", "utf-8", None),
        (b"ab", "utf-8", None),
        ("ab\ncd".encode("utf-16-le"), "utf-16-le", 6),
    ],
)
def test_the_length_of_a_line_includes_its_end(text: bytes, encoding: str, length: int | None) -> None:
    options = replace(OPTIONS, encoding=encoding, end=len(text))
    assert measure_line(io.BytesIO(text), 0, options) == length
