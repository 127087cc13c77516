"""Test that cells converted in bulk and one by one give equal fields. `Folder.validate` asserts this for each page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.csv.fileset import SUFFIXES
from tests.sources.csv_folder import COIN, Folder, daily_files
from tests.sources.test_record_columns import NUMBERS, TIMES

TEXTS = st.sampled_from(
    [
        "coin",
        "Coin ",
        "\tcoin",
        "coin\v\f",
        " a,b",
        '"',
        "a\x00b",
        "é",
        "",
        "null",
        "\x1fcoin",
        "a\nb",
        "usd",
        "USD",
        "x" * 400,
    ]
)
DECLARATIONS: list[dict[str, Any]] = [
    {},
    {"nulls": ("", "null")},
    {"decimal": ",", "thousands": "."},
    {"decimal": ".", "thousands": ",", "suffixes": SUFFIXES, "nulls": ("", "null", "-")},
    {"decimal": ",", "suffixes": SUFFIXES},
    {"times": ("epoch_s",)},
    {"times": ("epoch_ms", "iso")},
    {"times": ("%d-%m-%Y", "%b %d, %Y")},
    {"delimiter": ";"},
    {"delimiter": "="},
]


@tried(max_examples=200, deadline=None)
@given(
    st.sampled_from(DECLARATIONS),
    st.lists(st.tuples(TEXTS, TIMES, NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_bulk_and_single_conversion_give_the_same_fields(
    path: Path, declaration: dict[str, Any], rows: list[tuple[str, ...]], end: str, is_quoted: bool
) -> None:
    columns = {
        "observed_at": "day",
        "price": "price",
        "high": "high",
        "low": "low",
        "change_24h_pct": "change",
        "name": "coin",
    }
    constants = {name: value for name, value in COIN.items() if name not in columns}
    folder = Folder(path, daily_files(columns=columns, constants=constants, **declaration))
    delimiter = declaration.get("delimiter", ",")
    header = ["coin", "day", "price", "high", "low", "change"]
    write: Callable[[str], str] = (lambda cell: '"' + cell.replace('"', '""') + '"') if is_quoted else str
    text = "".join(delimiter.join(map(write, row)) + end for row in (header, *rows))
    folder.write("file.csv", text)
    folder.read("file.csv")


@pytest.mark.parametrize("column", ["^d.*$", "*", "^.*$", ""])
def test_a_column_name_is_not_interpreted_as_a_pattern(path: Path, column: str) -> None:
    constants = {field: value for field, value in COIN.items() if field != "name"}
    columns = {"observed_at": "day", "price": "price", "name": column}
    folder = Folder(path, daily_files(columns=columns, constants=constants))
    folder.write("file.csv", f"{column},day,price\nBitcoin,2024-01-01,5\n")
    assert [quote.name for quote in folder.read("file.csv").quotes] == ["Bitcoin"]
