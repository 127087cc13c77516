"""Test which decimal holds every value of a column and their sum, and that no other file has decimals."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import Engine

from app.quotes.export_columns import Column, Digits, fitted_columns, rounded, uniform_columns
from app.quotes.selection import Selection
from tests.app.rows import NOON, Rows

ALL = {"limit": 100, "order": "asc"}


@pytest.mark.parametrize(
    ("largest", "places", "rows", "scale"),
    [
        ("126.711", 3, 10_000, 9),
        ("0", 0, 0, 6),
        ("0", 0, 1, 6),
        ("1e-38", 38, 1, None),
        ("1e-37", 37, 1, 37),
        ("1", 31, 1, 37),
        ("99999999999999999999", 17, 1, 17),
        ("99999999999999999999", 18, 1, None),
        ("1e40", 0, 1, None),
        # One value fits, but the sum does not.
        ("4e17", 19, 1, 20),
        ("4e17", 19, 100, None),
    ],
)
def test_a_decimal_holds_each_value_and_the_sum(largest: str, places: int, rows: int, scale: int | None) -> None:
    assert Digits(Decimal(largest), places).scale(rows) == scale


def test_columns_fit_the_selected_rows_only(engine: Engine, rows: Rows) -> None:
    bitcoin, ether = rows.listing(), rows.listing("ether")
    rows.quote(bitcoin, NOON, "1.50", change_24h_pct=Decimal("-12345.25"), rank=1)
    rows.quote(ether, NOON, "1e-60")
    members = ("asset", "price", "change_24h_pct", "open", "rank", "observed_at")
    with engine.connect() as connection:
        all_rows = fitted_columns(connection, Selection(connection, ALL), members, 2)
        selection = Selection(connection, {**ALL, "asset": ["bitcoin"]})
        one_listing = fitted_columns(connection, selection, members, 1)
    assert one_listing == [
        Column("asset", "asset", "text"),
        Column("price", "price", "decimal", 7),
        Column("change_24h_pct", "change_24h_pct", "decimal", 8),
        Column("open", "open", "decimal", 6),
        Column("rank", "rank", "whole"),
        Column("observed_at", "observed_at", "time"),
    ]
    assert all_rows[1:3] == [Column("price", "price", "double"), Column("price_text", "price", "text")]
    assert (rounded(one_listing), rounded(all_rows)) == ("", "price")


def test_a_file_without_amounts_needs_no_figures(engine: Engine) -> None:
    with engine.connect() as connection:
        columns = fitted_columns(connection, Selection(connection, ALL), ("rank", "run"), 0)
    assert columns == uniform_columns(("rank", "run"), "double")
