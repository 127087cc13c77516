"""Test the format of text, null and empty lines in an export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Engine, Text, cast, literal, null, select

from app.quotes.export_lines import Cells, csv_line, table_line
from app.quotes.fields import json_object

NULL: Any = cast(null(), Text)


def text(value: str) -> ColumnElement[str]:
    return cast(literal(value), Text)


@pytest.mark.parametrize(
    ("line", "members", "expected"),
    [
        (csv_line, {"name": text('a,"b"'), "price": text("1.50"), "low": NULL}, '"a,""b""",1.50,'),
        (csv_line, {"price": NULL}, '""'),
        (table_line, {"price": NULL}, ","),
        (table_line, {"name": text(""), "price": text("1")}, ',"",1'),
        (json_object, {"name": text('"'), "price": NULL}, '{"name":"\\"","price":null}'),
    ],
)
def test_each_format_writes_the_expected_line(
    engine: Engine, line: Callable[[Cells], ColumnElement[str]], members: dict[str, ColumnElement[Any]], expected: str
) -> None:
    with engine.connect() as connection:
        assert connection.scalar(select(line(members))) == expected
