"""Test that a file set is refused with a clear sentence, or that its files can be read, by columns and row by row."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import event, example, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.contract import DeclarationError, TerminalError
from sources.csv.fileset import FileSet
from tests.sources.csv_folder import COIN, Folder, daily_files

SENTENCE = re.compile(r"[\w/.-]+\.py:\d+: file set .+: .+", re.DOTALL)
COLUMNS = ["day", "a", "b", "c", "*", "^a$"]
NAMES = ["source_asset_id", "symbol", "name", "quote_currency", "observed_at", "price", "open", "high", "rank", "prise"]
VALUES: list[Any] = ["x", "USD", "", "usd", 1, Decimal("1.5"), 1.5, True, None, "2024-01-01T00:00:00Z", b"x"]
VALUES += [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1)]  # noqa: DTZ001 — a naive time, which is refused
TIMES = ["iso", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns", "%Y-%m-%d", "%d.%m.%Y", "%m.%d.%Y", "%Y%m%d", "%Y-%j"]
TIMES += ["%a %d %b %Y", "%G-W%V-%u", "%Y-%U-%w", "%Y-%m-%d %H:%M:%S %Z", "%Y-%m-%d %I:%M", "%y-%m-%d", "%Y %%"]
CELLS = ["2024-02-03", "20240203", "03.02.2024", "1706918400", "2024-034", "Sat 03 Feb 2024", "Sun 03 Feb 2024"]
CELLS += [
    "2024-W05-6",
    "1",
    "1.5",
    "1,5",
    "1.234,5",
    "1 234",
    "2K",
    "5%",
    "",
    "null",
    "-",
    "é",
    "a b",
    '"',
    "\x1f1",
    "0",
]

MARKS = st.sampled_from([",", ".", ";", "\t", "|", " ", "'", "", "¦", "5", "\x1f", '"', ",,"])
FIELDS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(COLUMNS), max_size=4)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "columns": FIELDS.map(lambda more: {"observed_at": "day", "price": "a", **more}),
        "constants": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=3).map(
            lambda more: {**COIN, **more}
        ),
        "templates": st.dictionaries(
            st.sampled_from(NAMES), st.sampled_from(["{a}", "{a}-{stem}", "x", "{}", "{", "{a}{b}"]), max_size=2
        ),
        "currencies": st.dictionaries(st.sampled_from(["USD", "BTC", "usd", "u s"]), FIELDS, max_size=3),
        "path": st.sampled_from(["", r"(?P<stem>\w+)\.csv", "(", r"(?P<a>\w+)\.csv"]),
        "header": st.sampled_from([True, False, "day", tuple(COLUMNS), ["day", "a"], (), ("a", "a", "day", "b", "c")]),
        "skip_lines": st.sampled_from([0, 1, -1, "1", True]),
        "encoding": st.sampled_from(["utf-8", "latin-1", "utf-16", "shift_jis", "hex", "none", "raw_unicode_escape"]),
        "delimiter": MARKS,
        "decimal": MARKS,
        "thousands": MARKS,
        "suffixes": st.sampled_from([{}, {"K": 3}, {"E": 3}, {"": 3}, {"K": "3"}, {"%": -2}, {"K": 99}, {"1K": 3}]),
        "nulls": st.sampled_from([("",), ("", "null"), "null", (" ",), (), (None,), ("1", "-")]),
        "times": st.lists(st.sampled_from(TIMES), max_size=3),
        "timezone": st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), timezone(timedelta(hours=1)), None, tzinfo()]),
        "complete": st.sampled_from([True, False, "yes", None]),
    },
)


@pytest.fixture(scope="module")
def folder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("declarations")


@tried(max_examples=400, deadline=None)
@given(CHANGES, st.lists(st.lists(st.sampled_from(CELLS), min_size=6, max_size=6), max_size=4))
@example(
    {
        "columns": {"observed_at": "day"},
        "constants": dict.fromkeys(("source_asset_id", "symbol", "name"), "x"),
        "currencies": {"USD": {"price": "a", "high": "b"}, "BTC": {"price": "c"}},
    },
    [["2024-02-03", "1", "2", "3", "", ""]],
)
def test_a_declaration_is_refused_or_can_be_read(
    folder_path: Path, changes: dict[str, Any], rows: list[list[str]]
) -> None:
    try:
        file_set = daily_files(**changes)
    except DeclarationError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        event("refused")
        assert SENTENCE.fullmatch(refusal)
        assert "tests/sources/csv_folder.py:" in refusal
        return
    event("accepted")
    folder = Folder(folder_path, file_set)
    text = "".join(
        file_set.delimiter.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) + "\n"
        for row in (COLUMNS, *rows)
    )
    (folder_path / "file.csv").write_bytes(text.encode(file_set.encoding, "replace"))
    with suppress(TerminalError):  # The header that the generated encoding or delimiter gives is another one.
        folder.read("file.csv")  # asserts that columns and rows are equal


ROW = {"source_asset_id": "X", "symbol": "X", "name": "X"}


def test_each_currency_of_a_row_may_have_its_own_fields(path: Path) -> None:
    """The field that one currency lacks is null, in whatever order the currencies declare their fields."""
    currencies = {
        "USD": {"price": "usd", "market_cap": "cap"},
        "BTC": {"price": "btc"},
        "EUR": {"market_cap": "cap", "price": "eur"},
    }
    folder = Folder(path, daily_files(columns={"observed_at": "day"}, constants=ROW, currencies=currencies))
    folder.write("file.csv", "day,usd,cap,btc,eur\n2025-01-01,100,5000,0.001,90\n")
    assert [(quote.quote_currency, str(quote.price), quote.market_cap) for quote in folder.read("file.csv").quotes] == [
        ("USD", "100", 5000),
        ("BTC", "0.001", None),
        ("EUR", "90", 5000),
    ]


def test_a_column_may_have_the_name_of_a_group_of_the_path(path: Path) -> None:
    columns = {"observed_at": "day", "price": "stem"}
    folder = Folder(path, daily_files(columns=columns, path=r"(?P<stem>\w+)\.csv"))
    folder.write("file.csv", "day,stem\n2025-01-01,100\n")
    assert folder.read("file.csv").prices == ["100"]


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ({"pattern": ""}, "pattern must be a pattern of paths below CSV_DIR, such as closes/*.csv, but is ''"),
        ({"pattern": "../x.csv"}, "pattern must be a pattern of paths below CSV_DIR"),
        ({"columns": "price"}, "columns must be a mapping of text to text, but is 'price'"),
        ({"columns": {"prise": "price"}}, "the unified record has no field 'prise'; did you mean 'price'?"),
        ({"columns": {"observed_at": "day"}}, "each quote needs price; declare each in columns"),
        ({"columns": {"price": "price"}}, "each quote needs observed_at; declare each in columns"),
        ({"columns": {"observed_at": "day", "price": "a", "name": "b"}}, "the field 'name' is declared twice"),
        ({"currencies": {"EUR": {}}}, "the field 'quote_currency' is declared twice; declare it once"),
        ({"constants": {**COIN, "open": 1.5}}, "the constant open would be rejected in every row: expected a number"),
        ({"constants": {**COIN, "quote_currency": "dollars!"}}, "the constant quote_currency would be rejected"),
        ({"templates": {"rank": "1"}}, "the template rank needs a column in braces, such as {coin}, but is '1'"),
        ({"templates": {"rank": "{a}{"}}, "the template rank has a brace without a name"),
        ({"path": "("}, "path must be a regular expression, but '(' is none"),
        ({"header": ("day",)}, "header lacks the columns ['price']; it has ['day']"),
        ({"header": ("day", "price", "day")}, "header must have each column once, but has ['day'] more often"),
        ({"header": False}, 'header must be True, or the names of the columns, such as ("day", "price"), but is False'),
        ({"skip_lines": -1}, "skip_lines must be a whole number of 0 or more, but is -1"),
        ({"encoding": "utf8000"}, "encoding must be utf-8, utf-16, or an encoding that is compatible with ASCII"),
        ({"delimiter": ";;"}, "delimiter must be one character that is no letter, digit, quote or line end"),
        ({"delimiter": "¦", "encoding": "ascii"}, "delimiter must be a character of ascii, but is '¦'"),
        ({"thousands": "."}, "thousands and decimal must differ, but both are '.'"),
        ({"suffixes": {"K": "3"}}, "suffixes must be a mapping of suffixes without digits to powers of ten"),
        ({"nulls": "null"}, 'nulls must be a list of texts without white space at their ends, such as ("", "null")'),
        ({"times": "%Y"}, "times must be a list of formats: iso, epoch_s"),
        ({"times": ()}, "times must be a list of formats: iso, epoch_s"),
        ({"timezone": "Europe/Berlin"}, 'timezone must be a time zone, such as ZoneInfo("Europe/Berlin"), but is'),
        ({"complete": "yes"}, "complete must be True or False, but is 'yes'"),
    ],
)
def test_a_wrong_declaration_is_refused_with_what_is_expected(declaration: dict[str, Any], expected: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        daily_files(**declaration)
    assert SENTENCE.fullmatch(str(raised.value))
    assert expected in str(raised.value)


def test_the_message_names_the_line_that_declares_the_file_set() -> None:
    with pytest.raises(DeclarationError, match=r"^tests/sources/csv/test_fileset_checks\.py:\d+: file set '\*\.csv': "):
        FileSet(pattern="*.csv", times=("epoch_ns",), columns={"price": "a", "observed_at": "b"}, constants=COIN)
