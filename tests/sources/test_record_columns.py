"""Judged side by side or one by one: the same items are quotes, with the same values, and the same are rejects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.contract import Page, Reject
from sources.csv.fileset import SUFFIXES
from sources.record import Quote, Record
from sources.record_columns import validate_columns
from tasks.pipeline.normalize import normalize_page
from tests.sources.csv_folder import COIN, Folder, daily
from tests.sources.test_record import FIELDS, LATEST, values
from tests.upstreams import canned, item


def words(text: str) -> list[str]:
    return text.split()


# What a number, a time or a text may look like, and what only nearly is one.
NUMBERS = st.sampled_from(
    [
        *words("1 +1 -1 0 -0 0.0 00.50 1. .5 . 1e5 1E-7 1e+40 1e41 1e-61 1e-400 1e400 1e00001 0e5 1e NaN nan Infinity"),
        *words("-inf 1e-000007 1_000 1,5 1.234,5 1,234.5 0x1 5.58B 46,88K 2M% -4.02% null １ ٣"),
        *("", " 7", "7 ", "\x1f1", "1\x1c", "\xa01", "1\x00", "9" * 101, "0." + "1" * 99),
    ]
) | st.from_regex(r"[+-]?[0-9]{1,3}(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,5})?", fullmatch=True)
TIMES = st.sampled_from(
    [
        *words("2024-01-02 2024-1-2 2024-02-30 2024-01-02T03:04:05.5 2024-01-02T03:04:05.1234567 2024-01-02T03:04:60"),
        *words("2024-01-02T24:00:00 2024-01-02T03:04:05Z 2024-01-02T03:04 2024-01-02T03:04:05+14:00 2024-01-02Z"),
        *words("20240102 2024-W01-2 2999-01-01 2008-01-01 0000-01-01 9999-12-31T23:59:59.999999 ２０２４-01-02"),
        *words("1704164645 1704164645000 +1704164645 1704164645.5 999999999999999999 02-01-2024 2-1-2024 day null"),
        *("2024-01-02 03:04:05", "2024-01-02 03:04:05+00:00", "Jan 02, 2024", "", " 2024-01-02", "2024-01-02\x1f"),
    ]
)
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


def one_by_one(items: Sequence[Any], latest: datetime) -> tuple[list[Quote], list[tuple[int, list[dict[str, str]]]]]:
    """What the reference validator says of each: the quotes by key, and the rejects' reasons by place."""
    record, quotes, rejects = Record(latest), {}, []
    for place, normalized in enumerate(items):
        try:
            quote = record.quote(normalized)
        except Reject as reject:
            rejects.append((place, reject.reasons))
        else:
            quotes[quote.source_asset_id, quote.quote_currency, quote.observed_at] = quote
    return sorted(quotes.values(), key=by_key), rejects


def by_key(quote: Quote) -> Any:
    return quote.source_asset_id, quote.quote_currency, quote.observed_at


def assert_judged_alike(items: Sequence[Any]) -> None:
    source = canned([], parse=lambda _: items)
    normalized = normalize_page(source, Page(b"", "", {}, LATEST, None), clock_skew=0)
    quotes, rejects = one_by_one(items, LATEST)
    assert sorted(normalized.quotes, key=by_key) == quotes
    assert [(reject.index, reject.reasons) for reject in normalized.rejects] == rejects
    assert normalized.fetched == len(items) == len(quotes) + len(rejects) + normalized.deduplicated


@tried(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from([*FIELDS, "unknown"]), values | NUMBERS | TIMES, max_size=6), max_size=4)
)
@example([{"price": Decimal("1e1000000")}, {"price": Decimal("sNaN")}, {"price": 10**5000}, {}])
@example([{"high": "1.00000000000000000001", "low": "1.00000000000000000002"}])
@example([{"high": "1.00000000000000000002", "low": "1.00000000000000000001"}])
@example([{"high": 1, "low": "1.0"}, {"high": "1", "low": True}, {"symbol": 5}, {"rank": "007"}, {"rank": "1.0"}])
@example([{"observed_at": LATEST}, {"observed_at": LATEST + timedelta(microseconds=1)}, {"name": "\ud800"}])
def test_any_items_are_judged_alike(changes: list[dict[str, Any]]) -> None:
    assert_judged_alike([item(number, **it) for number, it in enumerate(changes)])


@tried(max_examples=120, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"source_asset_id": st.sampled_from("ab"), "price": NUMBERS, "observed_at": TIMES.map(lambda at: f"{at}Z")}
        ),
        max_size=8,
    )
)
def test_of_two_quotes_at_one_instant_the_later_stands(changes: list[dict[str, Any]]) -> None:
    assert_judged_alike([item(**it) for it in changes])


def test_of_two_names_of_one_listing_the_later_stands() -> None:
    items = [
        item(price=str(price), name=name, observed_at=f"2026-01-0{price}T00:00:00Z")
        for price, name in ((1, "Old"), (2, "New"))
    ]
    source = canned([], parse=lambda _: items)
    quotes = normalize_page(source, Page(b"", "", {}, LATEST, None), clock_skew=0).quotes
    assert [(one.name, one.source_asset_id) for one in quotes.listings] == [("New", "coin-0")]
    assert len(quotes) == 2


DECLARED: list[dict[str, Any]] = [
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


@pytest.fixture(scope="module")
def path() -> Any:
    with TemporaryDirectory() as path:
        yield Path(path)


@tried(max_examples=200, deadline=None)
@given(
    st.sampled_from(DECLARED),
    st.lists(st.tuples(TEXTS, TIMES, NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_any_rows_are_judged_alike(
    path: Path, declared: dict[str, Any], rows: list[tuple[str, ...]], end: str, quoted: bool
) -> None:
    """`judge` of the folder asserts it, for each page."""
    columns = {
        "observed_at": "day",
        "price": "price",
        "high": "high",
        "low": "low",
        "change_24h_pct": "change",
        "name": "coin",
    }
    constants = {name: value for name, value in COIN.items() if name not in columns}
    folder = Folder(path, daily(columns=columns, constants=constants, **declared))
    sign = declared.get("delimiter", ",")
    header = ["coin", "day", "price", "high", "low", "change"]
    write: Callable[[str], str] = (lambda cell: '"' + cell.replace('"', '""') + '"') if quoted else str
    text = "".join(sign.join(map(write, row)) + end for row in (header, *rows))
    folder.write("file.csv", text)
    folder.read("file.csv")


@tried(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([3, 3, 3, 1, 2, 4, 6]), max_size=30), st.booleans())
def test_lines_with_any_numbers_of_cells_are_judged_alike(path: Path, widths: list[int], quoted: bool) -> None:
    folder = Folder(path, daily())
    cells = ["2024-01-02", '"5"' if quoted else "5", *"abcd"]
    folder.write("file.csv", "day,price,more\n" + "".join(f"{','.join(cells[:width])}\n" for width in widths))
    assert folder.read("file.csv").codes == ({"ragged": len(widths) - widths.count(3)} if set(widths) - {3} else {})


@pytest.mark.parametrize("white", [" ", "\t", "\v", "\f", "\u00a0", " \t "])
def test_white_space_around_a_cell_is_no_part_of_it(path: Path, white: str) -> None:
    folder = Folder(path, daily())
    folder.write("file.csv", f"day,price\n{white}2024-01-02{white},{white}5\n{white},{white}\n")
    judged = folder.read("file.csv")
    assert (judged.prices, judged.blank, judged.rejects) == (["5"], 1, [])


@pytest.mark.parametrize("first", ["short", "a,b,c", "", "2024-01-01,4"])
def test_a_mark_within_a_file_is_part_of_its_cell(path: Path, first: str) -> None:
    folder = Folder(path, daily())
    folder.write("file.csv", f"day,price\n{first}\n\ufeff2024-01-02,5\n2024-01-03,6\n")
    judged = folder.read("file.csv")
    assert judged.prices == (["4", "6"] if first.startswith("2024") else ["6"])
    assert judged.codes["not_a_time"] == 1


@pytest.mark.parametrize("column", ["^d.*$", "*", "^.*$", ""])
def test_a_columns_name_is_no_pattern_of_names(path: Path, column: str) -> None:
    named = {field: value for field, value in COIN.items() if field != "name"}
    folder = Folder(path, daily(columns={"observed_at": "day", "price": "price", "name": column}, constants=named))
    folder.write("file.csv", f"{column},day,price\nBitcoin,2024-01-01,5\n")
    assert [quote.name for quote in folder.read("file.csv").quotes] == ["Bitcoin"]


def test_most_of_a_usual_file_needs_no_closer_look(path: Path) -> None:
    folder = Folder(path, daily())
    folder.write("file.csv", "day,price\n" + "".join(f"2024-01-{day:02},{day}.5\n" for day in range(1, 29)))
    [page] = folder.look("file.csv")
    assert folder.source.columns is not None
    columns = folder.source.columns(page)
    assert columns is not None
    assert (len(columns.frame), columns.apart) == (28, {})
    assert validate_columns(columns.frame, LATEST).left == []


def test_what_the_columnar_validator_is_not_sure_of_it_leaves() -> None:
    keys = {
        "source_asset_id": "a",
        "symbol": "a",
        "name": "a",
        "quote_currency": "USD",
        "observed_at": "2024-01-02T00:00:00Z",
    }
    prices = ["1", "1e-400", "-1", "1e99", "x", None, "0"]
    frame = pl.DataFrame([{"item": place, **keys, "price": price} for place, price in enumerate(prices)])
    judged = validate_columns(frame, datetime(2026, 1, 1, tzinfo=UTC))
    assert (judged.taken["item"].to_list(), judged.left) == ([0], [1, 2, 3, 4, 5, 6])
