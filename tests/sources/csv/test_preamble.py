"""Test that a file is refused if its byte order mark, skipped lines or header contradict its declaration."""

from __future__ import annotations

from typing import Any

import pytest

from sources.contract import TerminalError


@pytest.mark.parametrize("byte_order_mark", [b"\xff\xfe", b"\xfe\xff"])
def test_the_byte_order_mark_determines_the_byte_order_of_utf_16(read: Any, byte_order_mark: bytes) -> None:
    text = "day,price\n2024-01-02,1\n".encode("utf-16-le" if byte_order_mark == b"\xff\xfe" else "utf-16-be")
    assert read(byte_order_mark + text, encoding="utf-16").prices == ["1"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_a_byte_order_mark_that_agrees_with_the_declared_encoding_is_no_part_of_a_cell(
    read: Any, encoding: str
) -> None:
    content = "\ufeffcoin-\u00e9,2024-01-02,1\n".encode(encoding)
    columns = {"source_asset_id": "id", "symbol": "id", "name": "id", "observed_at": "day", "price": "price"}
    declaration = {"columns": columns, "constants": {"quote_currency": "USD"}, "header": ("id", "day", "price")}
    [quote] = read(content, encoding=encoding, **declaration).quotes
    assert quote.source_asset_id == "coin-\u00e9"


@pytest.mark.parametrize(
    ("content", "declaration", "code", "text"),
    [
        (b"time,price\n", {}, "columns_missing", r"\['day'\].*'time', 'price'"),
        (b"day;price\n1;2\n", {}, "columns_missing", r"\['day', 'price'\].*'day;price'.*delimiter"),
        (b"day,price,price\n1,2,3\n", {}, "columns_ambiguous", r"\['price'\].*skip_lines"),
        (b"day,\xff\n", {}, "header_unreadable", "declare the file's encoding"),
        ("day,price\n".encode("utf-16"), {}, "encoding_unknown", "mark of utf-16-le.*declared as utf-8"),
        (b"\xef\xbb\xbfday,price\n", {"encoding": "latin-1"}, "encoding_unknown", "mark of utf-8.*iso8859-1"),
        (b"\xef\xbb\xbfday,price\n", {"encoding": "utf-16"}, "encoding_unknown", "mark of utf-8"),
        (b"\xfe\xff\x00d", {"encoding": "utf-16-le"}, "encoding_unknown", "mark of utf-16-be"),
        ("day,price\n".encode("utf-16-le"), {"encoding": "utf-16"}, "encoding_unknown", "utf-16-le or utf-16-be"),
        (b"a banner\n", {"skip_lines": 1}, "header_missing", "1 lines"),
        (b"\n\n,,\n", {}, "header_missing", "no header"),
        (b'"day,price\n2024-01-02,1\n', {}, "header_missing", "no header"),
        (b"x\n", {"skip_lines": 2, "header": ("day", "price")}, "header_missing", "2 lines"),
        (b"x" * 300_000, {}, "header_missing", "262144"),
    ],
)
def test_the_error_for_a_file_that_contradicts_its_declaration_names_the_next_step(
    read: Any, content: bytes, declaration: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(TerminalError, match=rf"^csv_test: file\.csv: .*{text}") as raised:
        read(content, **declaration)
    assert raised.value.code == code


def test_a_skipped_line_may_contain_anything(read: Any) -> None:
    outcome = read('An "unclosed\nday,price\n2024-01-02,1\n', skip_lines=1)
    assert (outcome.prices, outcome.blank) == (["1"], 0)


def test_a_file_without_a_header_gets_the_declared_columns(read: Any) -> None:
    outcome = read("1,2024-01-02\n2,2024-01-03\n", header=("price", "day"))
    assert outcome.prices == ["1", "2"]
