"""Test that cells are read in the format that their file set declares, or rejected with a reason."""

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

from sources.contract import Reject
from sources.csv.fileset import SUFFIXES, FileSet
from tests.sources.csv_folder import Folder, daily_files

DAY = datetime(2024, 1, 2, tzinfo=UTC)


def number(cell: str, **declaration: Any) -> str | None:
    """Return the number in a cell, or None if the cell is not in the declared format."""
    file_set = daily_files(**declaration)
    try:
        return str(Decimal(file_set.record("file.csv", {"day": "2024-01-02", "price": cell}, None)["price"]))
    except Reject as reject:
        return None if reject.reasons[0]["code"] == "not_a_number" else str(reject)


COMMA = {"decimal": ",", "thousands": "."}


@pytest.mark.parametrize(
    ("cell", "declaration", "value"),
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
def test_a_number_is_read_in_its_declared_format(cell: str, declaration: dict[str, Any], value: str | None) -> None:
    assert number(cell, **declaration) == value


NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=0, max_value=10**30)
POWERS = {"": 0, **SUFFIXES}


@settings(deadline=None)
@given(NUMBERS, st.sampled_from(["", ".", "'", " "]), st.sampled_from(list(POWERS)))
def test_a_number_is_exact_in_every_format(value: Decimal, thousands: str, suffix: str) -> None:
    cell = f"{value:,f}".replace(",", "_").replace(".", ",").replace("_", thousands) + suffix
    read = number(cell, decimal=",", thousands=thousands, suffixes=SUFFIXES)
    assert Decimal(read or "NaN") == Decimal(f"{value:f}E{POWERS[suffix]}")


@pytest.mark.parametrize("declaration", [{}, {"suffixes": SUFFIXES}])
def test_a_percent_sign_is_allowed_only_in_a_percentage(read: Any, declaration: dict[str, Any]) -> None:
    columns = {"observed_at": "day", "price": "price", "change_24h_pct": "change"}
    outcome = read("day,price,change\n2024-01-02,1,-4.02%\n2024-01-03,2%,1\n", columns=columns, **declaration)
    assert [quote.change_24h_pct for quote in outcome.quotes] == [Decimal("-4.02")]
    assert [(reason["field"], reason["code"]) for _, reject in outcome.rejects for reason in reject.reasons] == [
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
def test_a_time_is_read_in_its_declared_format(
    read: Any, cell: str, times: tuple[str, ...], expected: datetime | None
) -> None:
    outcome = read(f'day,price\n"{cell}",1\n', times=times)
    assert [quote.observed_at for quote in outcome.quotes] == ([expected] if expected else [])
    assert outcome.codes == ({} if expected else {"not_a_time": 1})


def test_seconds_declared_as_milliseconds_are_rejected_as_too_early(read: Any) -> None:
    assert read("day,price\n1704153600,1\n", times=("epoch_ms",)).codes == {"too_early": 1}


def test_a_local_time_is_converted_unless_it_is_ambiguous_or_does_not_exist(read: Any) -> None:
    outcome = read(
        "day,price\n2024-07-01 02:00,1\n2024-10-27 02:30,2\n2024-03-31 02:30,3\n2024-10-27T02:30+01:00,4\n",
        timezone=ZoneInfo("Europe/Berlin"),
    )
    assert [quote.observed_at for quote in outcome.quotes] == [
        datetime(2024, 7, 1, tzinfo=UTC),
        datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
    ]
    assert outcome.codes == {"not_a_time": 2}


def test_a_reject_names_the_file_line_field_value_and_expected_format(read: Any) -> None:
    outcome = read('day,price\n2024-01-02,1\n"\n1",x\n', times=("%Y-%m-%d", "epoch_s"), decimal=",")
    [(item, reject)] = outcome.rejects
    assert json.loads(item) == {"file": "file.csv", "line": 3, "row": {"day": "\n1", "price": "x"}}
    assert reject.reasons == [
        {"field": "price", "code": "not_a_number", "detail": "expected a number such as 1234,5, got 'x'"}
    ]


def test_a_reject_names_every_unreadable_cell_of_its_row(read: Any) -> None:
    outcome = read("day,price\nnever,1.5\n", decimal=",")
    [(_, reject)] = outcome.rejects
    assert [reason["field"] for reason in reject.reasons] == ["observed_at", "price"]
    assert "iso" in reject.reasons[0]["detail"]
    assert "'never'" in reject.reasons[0]["detail"]


def test_a_null_text_is_allowed_in_an_optional_number_but_not_in_a_price(read: Any) -> None:
    columns = {"observed_at": "day", "price": "price", "market_cap": "cap"}
    outcome = read("day,price,cap\n2024-01-02,1,null\n2024-01-03,null,1\n", columns=columns, nulls=("null",))
    assert [quote.market_cap for quote in outcome.quotes] == [None]
    assert outcome.codes == {"no_price": 1}


def test_a_null_text_in_a_required_text_field_is_rejected_as_empty(read: Any) -> None:
    columns = {"observed_at": "day", "price": "price", "name": "name"}
    constants = {"source_asset_id": "coin", "symbol": "COIN", "quote_currency": "USD"}
    outcome = read("day,price,name\n2024-01-02,1,null\n", columns=columns, constants=constants, nulls=("null",))
    assert outcome.codes == {"empty": 1}


def test_an_undeclared_column_may_occur_twice(read: Any) -> None:
    assert read("day,,price,\n2024-01-02,x,1,y\n").prices == ["1"]


def test_a_row_with_several_currencies_becomes_one_item_for_each_currency(read: Any) -> None:
    constants = {"source_asset_id": "coin", "symbol": "COIN", "name": "Coin"}
    outcome = read(
        "day,usd,eur\n2024-01-02,1,0.9\n2024-01-03,2,\nnever,3,2.7\n",
        columns={"observed_at": "day"},
        constants=constants,
        currencies={"USD": {"price": "usd"}, "EUR": {"price": "eur"}},
    )
    assert [(quote.quote_currency, str(quote.price)) for quote in outcome.quotes] == [
        ("USD", "1"),
        ("EUR", "0.9"),
        ("USD", "2"),
    ]
    assert outcome.codes == {"no_price": 1, "not_a_time": 2}


def test_a_template_combines_the_path_and_cells(tmp_path: Path) -> None:
    file_set = FileSet(
        pattern="*/*.csv",
        path=r"(?P<exchange>\w+)/.*",
        templates={"source_asset_id": "{exchange}:{Sym. no}", "name": "Coin {Sym. no}"},
        columns={"symbol": "Sym. no", "price": "price"},
        constants={"quote_currency": "USD", "observed_at": DAY},
    )
    folder = Folder(tmp_path, file_set)
    folder.write("binance/a.csv", "Sym. no,price\nADA,1\n,2\n")
    outcome = folder.read("binance/a.csv")
    [quote] = outcome.quotes
    assert (quote.source_asset_id, quote.name, quote.observed_at) == ("binance:ADA", "Coin ADA", DAY)
    assert outcome.codes == {"empty": 3}


@pytest.mark.parametrize(
    "declaration",
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
def test_an_inconsistent_declaration_is_refused(declaration: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\*\.csv|encoding"):
        daily_files(**declaration)
