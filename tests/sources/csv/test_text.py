"""Test that decoding and splitting text loses no byte."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.csv.text import INVALID_CHARACTERS, decode, read_records, split_lines
from tests.sources.csv_folder import Folder, daily_files

ENCODINGS = st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16-le", "utf-16-be", "gbk"])


@given(st.binary(max_size=60) | st.text(max_size=30).map(lambda text: text.encode("utf-16-le")), ENCODINGS)
def test_any_bytes_can_be_decoded_and_split_into_lines_without_loss(data: bytes, encoding: str) -> None:
    text = decode(data, encoding)
    assert isinstance(text, str)
    assert b"".join(split_lines(data, encoding)) == data


@pytest.mark.parametrize(
    ("data", "encoding", "is_valid"),
    [
        ("é😀".encode(), "utf-8", True),
        (b"\xff", "utf-8", False),
        (b"\x00", "utf-8", False),
        ("é😀".encode("utf-16-le"), "utf-16-le", True),
        ("a".encode("utf-16-le") + b"b", "utf-16-le", False),
        (b"\x00\xd8", "utf-16-le", False),
        (b"\xff", "latin-1", True),
    ],
)
def test_invalid_bytes_are_decoded_to_characters_that_mark_them_as_invalid(
    data: bytes, encoding: str, is_valid: bool
) -> None:
    assert (INVALID_CHARACTERS.search(decode(data, encoding)) is None) is is_valid


def test_utf_16_lines_are_split_at_characters_and_not_at_bytes() -> None:
    data = "a\r\nb\nĊ\r".encode("utf-16-le")  # The encoding of Ċ contains the byte of a newline.
    assert [line.decode("utf-16-le") for line in split_lines(data, "utf-16-le")] == ["a\r\n", "b\n", "Ċ\r"]


def test_records_are_split_at_the_declared_delimiter() -> None:
    assert list(read_records(['1;"2\n', '3"\n'], ";")) == [["1", "2\n3"]]


def test_a_cell_may_exceed_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    folder = Folder(
        tmp_path,
        daily_files(
            columns={"observed_at": "day", "price": "price", "name": "name"},
            constants={
                "source_asset_id": "coin",
                "symbol": "COIN",
                "quote_currency": "USD",
            },
        ),
    )
    csv.field_size_limit(131072)
    folder.write("file.csv", f"day,price,name\n2024-01-01,1,{'x' * 200_000}\n")
    assert folder.read("file.csv").codes == {"too_long": 1}


def test_half_a_character_at_the_end_of_a_file_rejects_only_its_row(read: Any) -> None:
    outcome = read("day,price\n2024-01-02,1\n2024-01-03,2".encode("utf-16") + b"\n", encoding="utf-16")
    assert (outcome.prices, outcome.codes) == (["1"], {"encoding": 1})


@pytest.mark.parametrize(
    ("encoding", "file_encoding"),
    [
        ("utf-8", "utf-8"),
        ("utf-8", "utf-8-sig"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("UTF-16LE", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("latin-1", "latin-1"),
        ("cp1252", "cp1252"),
        ("gbk", "gbk"),
    ],
)
@pytest.mark.parametrize("block", [1, 30, 10_000])
def test_a_file_is_read_in_its_declared_encoding(tmp_path: Path, encoding: str, file_encoding: str, block: int) -> None:
    name = {"gbk": "比特币", "latin-1": "Bitcoiné", "cp1252": "Bitcoin €"}.get(encoding, "Ḃitcoin € 😀")
    columns = {"observed_at": "day", "price": "price", "name": "the name"}
    constants = {"source_asset_id": "coin", "symbol": "COIN", "quote_currency": "USD"}
    folder = Folder(tmp_path, daily_files(encoding=encoding, columns=columns, constants=constants))
    folder.write(
        "file.csv", f'day,the name,price\r\n2024-01-02,"{name}",1\r\n2024-01-03,{name},2\r\n'.encode(file_encoding)
    )
    outcome = folder.read("file.csv", block=block)
    assert [(quote.name, str(quote.price)) for quote in outcome.quotes] == [(name, "1"), (name, "2")]
    assert (outcome.codes, outcome.blank) == ({}, 0)
