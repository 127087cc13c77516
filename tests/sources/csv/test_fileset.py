"""Cells as a file set declares them: read exactly, or refused with the reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.contract import Reject, TerminalError
from sources.csv.fileset import SUFFIXES, FileSet
from tests.sources.csv_folder import COIN, Folder, Judged, daily

DAY = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads one file with a content by a declaration."""

    def read(content: str | bytes, **declared: Any) -> Judged:
        folder = Folder(tmp_path, daily(**declared))
        folder.write("file.csv", content)
        return folder.read("file.csv")

    return read


def number(cell: str, **declared: Any) -> str | None:
    """What a cell of prices says by a declaration; None where it is refused."""
    file_set = daily(columns={"price": "price"}, **declared)
    try:
        return str(Decimal(file_set.record("file.csv", {"price": cell}, None)["price"]))
    except Reject as reject:
        return None if reject.reasons[0]["code"] == "not_a_number" else str(reject)


COMMA = {"decimal": ",", "thousands": "."}


@pytest.mark.parametrize(
    ("cell", "declared", "value"),
    [
        ("0,0112190134171886", {"decimal": ","}, "0.0112190134171886"),
        ("8833355,03", {"decimal": ","}, "8833355.03"),
        ("8904426", {"decimal": ","}, "8904426"),
        ("8904426,", {"decimal": ","}, "8904426"),
        (",5", {"decimal": ","}, "0.5"),
        (",", {"decimal": ","}, None),
        ("-.5K", {"suffixes": SUFFIXES}, "-5E+2"),
        ("1.234", {"decimal": ","}, None),
        ("1.234.567,5", COMMA, "1234567.5"),
        ("1234567,5", COMMA, "1234567.5"),
        ("1.23,5", COMMA, None),
        ("1.2345", COMMA, None),
        ("1,2,3", COMMA, None),
        ("1,234,567.5", {"thousands": ","}, "1234567.5"),
        ("1'234.5", {"thousands": "'"}, "1234.5"),
        ("1,5e-7", {"decimal": ","}, "1.5E-7"),
        ("-1,5", {"decimal": ","}, "-1.5"),
        ("5.58B", {"suffixes": SUFFIXES}, "5.58E+9"),
        ("46,88K", {"suffixes": SUFFIXES, "decimal": ","}, "4.688E+4"),
        ("995.68M", {"suffixes": SUFFIXES}, "9.9568E+8"),
        ("2T", {"suffixes": SUFFIXES}, "2E+12"),
        ("12", {"suffixes": SUFFIXES}, "12"),
        ("1.5Q", {"suffixes": SUFFIXES}, None),
        ("1.5e3B", {"suffixes": SUFFIXES}, None),
        ("B", {"suffixes": SUFFIXES}, None),
        ("4%", {"suffixes": SUFFIXES}, None),
        ("٣", {"decimal": ","}, None),
    ],
)
def test_a_number_is_read_as_it_is_declared(cell: str, declared: dict[str, Any], value: str | None) -> None:
    assert number(cell, **declared) == value


NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=0, max_value=10**30)
POWERS = {"": 0, **SUFFIXES}


@settings(deadline=None)
@given(NUMBERS, st.sampled_from(["", ".", "'", " "]), st.sampled_from(list(POWERS)))
def test_a_number_is_exact_however_it_is_written(value: Decimal, thousands: str, suffix: str) -> None:
    written = f"{value:,f}".replace(",", "_").replace(".", ",").replace("_", thousands) + suffix
    read = number(written, decimal=",", thousands=thousands, suffixes=SUFFIXES)
    assert Decimal(read or "NaN") == Decimal(f"{value:f}E{POWERS[suffix]}")


@pytest.mark.parametrize("declared", [{}, {"suffixes": SUFFIXES}])
def test_a_percent_sign_is_taken_from_a_change_only(read: Any, declared: dict[str, Any]) -> None:
    columns = {"observed_at": "day", "price": "price", "change_24h_pct": "change"}
    judged = read("day,price,change\n2024-01-02,1,-4.02%\n2024-01-03,2%,1\n", columns=columns, **declared)
    assert [quote.change_24h_pct for quote in judged.quotes] == [Decimal("-4.02")]
    assert [(reason["field"], reason["code"]) for _, reject in judged.rejects for reason in reject.reasons] == [
        ("price", "not_a_number")
    ]


@pytest.mark.parametrize(
    ("cell", "times", "expected"),
    [
        ("2024-01-02", ("iso",), DAY),
        ("2024-01-02 03:04:05", ("iso",), DAY.replace(hour=3, minute=4, second=5)),
        ("2024-01-02T03:04:05.678Z", ("iso",), DAY.replace(hour=3, minute=4, second=5, microsecond=678000)),
        ("2024-01-02T01:00:00+01:00", ("iso",), DAY),
        ("1704153600", ("epoch_s",), DAY),
        ("1704153600.25", ("epoch_s",), DAY.replace(microsecond=250000)),
        ("1704153600000", ("epoch_ms",), DAY),
        ("1704153600000001", ("epoch_us",), DAY.replace(microsecond=1)),
        ("02-01-2024", ("%d-%m-%Y",), DAY),
        ("Jan 02, 2024", ("%b %d, %Y",), DAY),
        ("01/02/2024, 12:00:00 AM", ("%m/%d/%Y, %I:%M:%S %p",), DAY),
        ("2024-01-02 00:00:00 UTC", ("%Y-%m-%d %H:%M:%S UTC",), DAY),
        ("20240102", ("%d-%m-%Y", "%Y%m%d"), DAY),
        ("2024-02-30", ("iso",), None),
        ("null", ("iso",), None),
        ("", ("iso", "epoch_s"), None),
        ("13/01/2024", ("%m/%d/%Y",), None),
        ("1.7e9", ("epoch_s",), None),
        ("1704153600000", ("epoch_s",), None),
        ("9" * 20, ("epoch_s",), None),
        ("٢٠٢٤", ("epoch_s",), None),
    ],
)
def test_a_time_is_read_as_it_is_declared(
    read: Any, cell: str, times: tuple[str, ...], expected: datetime | None
) -> None:
    judged = read(f'day,price\n"{cell}",1\n', times=times)
    assert [quote.observed_at for quote in judged.quotes] == ([expected] if expected else [])
    assert judged.codes == ({} if expected else {"not_a_time": 1})


def test_seconds_declared_as_milliseconds_are_too_early(read: Any) -> None:
    assert read("day,price\n1704153600,1\n", times=("epoch_ms",)).codes == {"too_early": 1}


def test_a_local_time_is_read_in_the_declared_zone_and_refused_where_it_is_not_one_instant(read: Any) -> None:
    judged = read(
        "day,price\n2024-07-01 02:00,1\n2024-10-27 02:30,2\n2024-03-31 02:30,3\n2024-10-27T02:30+01:00,4\n",
        timezone=ZoneInfo("Europe/Berlin"),
    )
    assert [quote.observed_at for quote in judged.quotes] == [
        datetime(2024, 7, 1, tzinfo=UTC),
        datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
    ]
    assert judged.codes == {"not_a_time": 2}


def test_a_reject_names_field_value_expectation_and_line(read: Any) -> None:
    judged = read('day,price\n2024-01-02,1\n"\n1",x\n', times=("%Y-%m-%d", "epoch_s"), decimal=",")
    [(item, reject)] = judged.rejects
    assert json.loads(item) == {"file": "file.csv", "line": 3, "row": {"day": "\n1", "price": "x"}}
    assert reject.reasons == [
        {"field": "price", "code": "not_a_number", "detail": "expected a number such as 1234,5, got 'x'"}
    ]


def test_every_unreadable_cell_of_a_row_is_named(read: Any) -> None:
    judged = read("day,price\nnever,1.5\n", decimal=",")
    [(_, reject)] = judged.rejects
    assert [reason["field"] for reason in reject.reasons] == ["observed_at", "price"]
    assert "iso" in reject.reasons[0]["detail"]
    assert "'never'" in reject.reasons[0]["detail"]


def test_an_unknown_number_is_no_error_but_a_price_must_be_there(read: Any) -> None:
    columns = {"observed_at": "day", "price": "price", "market_cap": "cap"}
    judged = read("day,price,cap\n2024-01-02,1,null\n2024-01-03,null,1\n", columns=columns, nulls=("null",))
    assert [quote.market_cap for quote in judged.quotes] == [None]
    assert judged.codes == {"no_price": 1}


def test_an_unknown_text_is_none(read: Any) -> None:
    columns = {"observed_at": "day", "price": "price", "name": "name"}
    constants = {"source_asset_id": "coin", "symbol": "COIN", "quote_currency": "USD"}
    judged = read("day,price,name\n2024-01-02,1,null\n", columns=columns, constants=constants, nulls=("null",))
    assert judged.codes == {"empty": 1}


def test_rows_with_nothing_in_them_and_repeated_headers_are_blank(read: Any) -> None:
    judged = read('\nday,price\n\n,,,\n , \n"",""\nday, price\n2024-01-02,1\n\n')
    assert (judged.prices, judged.codes, judged.blank) == (["1"], {}, 6)


@pytest.mark.parametrize(("row", "cells"), [("2024-01-02", 1), ("2024-01-02,1,", 3), ("2024-01-02,1,000", 3)])
def test_a_ragged_row_is_refused_with_both_counts(read: Any, row: str, cells: int) -> None:
    judged = read(f"day,price\n{row}\n2024-01-03,2\n")
    [(_, reject)] = judged.rejects
    assert reject.reasons == [{"field": "row", "code": "ragged", "detail": f"expected 2 cells, got {cells}"}]
    assert judged.prices == ["2"]


@pytest.mark.parametrize(
    "row", [b"2024-01-02,1\x00,x", b"2024-01-02,1,\x00", b"\x00\x00\x00", b"2024-01-02,1,\xff", b"2024-01-02,1,caf\xe9"]
)
def test_a_row_that_is_no_text_is_refused_alone(read: Any, row: bytes) -> None:
    content = "day,price,note\n2024-01-01,1,é\n".encode() + row + b"\n2024-01-03,3,\n"
    judged = read(content)
    assert (judged.prices, judged.codes) == (["1", "3"], {"encoding": 1})
    [(item, _)] = judged.rejects
    assert '"line": 3' in item


@pytest.mark.parametrize(
    ("encoding", "written"),
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
def test_a_file_is_read_in_its_declared_encoding(tmp_path: Path, encoding: str, written: str, block: int) -> None:
    name = {"gbk": "比特币", "latin-1": "Bitcoiné", "cp1252": "Bitcoin €"}.get(encoding, "Ḃitcoin € 😀")
    columns = {"observed_at": "day", "price": "price", "name": "the name"}
    constants = {"source_asset_id": "coin", "symbol": "COIN", "quote_currency": "USD"}
    folder = Folder(tmp_path, daily(encoding=encoding, columns=columns, constants=constants))
    folder.write("file.csv", f'day,the name,price\r\n2024-01-02,"{name}",1\r\n2024-01-03,{name},2\r\n'.encode(written))
    judged = folder.read("file.csv", block=block)
    assert [(quote.name, str(quote.price)) for quote in judged.quotes] == [(name, "1"), (name, "2")]
    assert (judged.codes, judged.blank) == ({}, 0)


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_either_order_of_utf_16_is_known_by_its_mark(read: Any, mark: bytes) -> None:
    text = "day,price\n2024-01-02,1\n".encode("utf-16-le" if mark == b"\xff\xfe" else "utf-16-be")
    assert read(mark + text, encoding="utf-16").prices == ["1"]


def test_half_a_character_at_the_end_is_refused_with_its_row(read: Any) -> None:
    judged = read("day,price\n2024-01-02,1\n2024-01-03,2".encode("utf-16") + b"\n", encoding="utf-16")
    assert (judged.prices, judged.codes) == (["1"], {"encoding": 1})


@pytest.mark.parametrize(
    ("content", "declared", "code", "named"),
    [
        (b"time,price\n", {}, "columns_missing", r"\['day'\].*'time', 'price'"),
        (b"day;price\n1;2\n", {}, "columns_missing", r"\['day', 'price'\].*'day;price'.*delimiter"),
        (b"day,price,price\n1,2,3\n", {}, "columns_ambiguous", r"\['price'\]"),
        ("day,price\n".encode("utf-16"), {}, "header_unreadable", "encoding"),
        ("day,price\n".encode("utf-16-le"), {"encoding": "utf-16"}, "encoding_unknown", "utf-16-le or utf-16-be"),
        (b"a banner\n", {"skip_lines": 1}, "header_missing", "1 lines"),
        (b"\n\n,,\n", {}, "header_missing", "no header"),
        (b'"day,price\n2024-01-02,1\n', {}, "header_missing", "no header"),
        (b"x\n", {"skip_lines": 2, "header": ("day", "price")}, "header_missing", "2 lines"),
        (b"x" * 300_000, {}, "header_missing", "262144"),
    ],
)
def test_a_file_that_is_not_as_declared_is_named_with_what_it_has(
    read: Any, content: bytes, declared: dict[str, Any], code: str, named: str
) -> None:
    with pytest.raises(TerminalError, match=rf"file\.csv.*{named}") as raised:
        read(content, **declared)
    assert raised.value.code == code


def test_a_column_that_nobody_reads_may_be_there_twice(read: Any) -> None:
    assert read("day,,price,\n2024-01-02,x,1,y\n").prices == ["1"]


def test_a_banner_is_skipped_whatever_is_in_it(read: Any) -> None:
    judged = read('An "unclosed\nday,price\n2024-01-02,1\n', skip_lines=1)
    assert (judged.prices, judged.blank) == (["1"], 0)


def test_a_file_without_header_has_the_declared_columns(read: Any) -> None:
    judged = read("1,2024-01-02\n2,2024-01-03\n", header=("price", "day"))
    assert judged.prices == ["1", "2"]


def test_a_row_with_several_currencies_is_an_item_for_each(read: Any) -> None:
    constants = {"source_asset_id": "coin", "symbol": "COIN", "name": "Coin"}
    judged = read(
        "day,usd,eur\n2024-01-02,1,0.9\n2024-01-03,2,\nnever,3,2.7\n",
        columns={"observed_at": "day"},
        constants=constants,
        currencies={"USD": {"price": "usd"}, "EUR": {"price": "eur"}},
    )
    assert [(quote.quote_currency, str(quote.price)) for quote in judged.quotes] == [
        ("USD", "1"),
        ("EUR", "0.9"),
        ("USD", "2"),
    ]
    assert judged.codes == {"no_price": 1, "not_a_time": 2}


def test_an_id_may_be_made_of_the_path_and_of_cells(tmp_path: Path) -> None:
    file_set = FileSet(
        pattern="*/*.csv",
        path=r"(?P<exchange>\w+)/.*",
        templates={"source_asset_id": "{exchange}:{Sym. no}", "name": "Coin {Sym. no}"},
        columns={"symbol": "Sym. no", "price": "price"},
        constants={"quote_currency": "USD", "observed_at": DAY},
    )
    folder = Folder(tmp_path, file_set)
    folder.write("binance/a.csv", "Sym. no,price\nADA,1\n,2\n")
    judged = folder.read("binance/a.csv")
    [quote] = judged.quotes
    assert (quote.source_asset_id, quote.name, quote.observed_at) == ("binance:ADA", "Coin ADA", DAY)
    assert judged.codes == {"empty": 3}


def test_of_several_sets_that_match_a_file_the_first_has_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path, daily(pattern="a*.csv", constants={**COIN, "symbol": "A"}), daily(pattern="*.csv"))
    content = "day,price\n2024-01-02,1\n"
    assert folder.partitions() == []
    for name in ("ab.csv", "b.csv"):
        folder.write(name, content)
    assert [folder.read(name).quotes[0].symbol for name in folder.partitions()] == ["A", "COIN"]


@pytest.mark.parametrize(
    "declared",
    [
        {"columns": {"prise": "price"}},
        {"columns": {"price": "price", "symbol": "symbol"}},
        {"columns": {"price": "price"}, "currencies": {"USD": {"price": "usd"}}},
        {"currencies": {"USD": {"open": "usd"}}},
        {"header": False},
        {"header": "day,price"},
        {"encoding": "utf-7"},
        {"encoding": "utf-32"},
        {"encoding": "cp037"},
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused_where_it_stands(declared: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\*\.csv|encoding"):
        daily(**declared)


@pytest.mark.parametrize("missing", ["price", "day"])
def test_a_stored_page_is_judged_by_the_declaration_of_today(tmp_path: Path, missing: str) -> None:
    folder = Folder(tmp_path, daily())
    folder.write("file.csv", "day,price\n2024-01-02,1\n")
    pages = folder.look("file.csv")
    (tmp_path / "file.csv").unlink()
    assert folder.judge(pages).prices == ["1"]
    today = Folder(tmp_path, daily(columns={"observed_at": "day", "price": "price"} | {"rank": f"{missing} of today"}))
    with pytest.raises(TerminalError, match=f"{missing} of today"):
        today.judge(pages)
