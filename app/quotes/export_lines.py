"""Build the SQL that formats each exported row as one line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Double, FromClause, Select, Text, case, cast, func, select, true

from app.exports.stream import csv_text
from app.quotes.export_columns import Column
from app.quotes.fields import FREE_TEXT, MEMBERS, WHOLE_NUMBERS, json_object
from app.quotes.selection import QueryShape
from app.web.formats import number_sql, sortable_instant_sql
from store.tables import AssetRow, ListingRow, QuoteRow

Cells = Mapping[str, ColumnElement[Any]]
"""The SQL of each value of a row, by column."""

EXPONENT_FROM = 1e15
"""From here on, Postgres writes a double with an exponent."""


def json_lines(shape: QueryShape, columns: Sequence[Column]) -> Select[Any]:
    """Return the query for lines of JSON. Doubles are JSON numbers, and all other amounts are JSON strings."""
    doubles = _doubles(columns)
    numbers = (*WHOLE_NUMBERS, *(column.name for column in columns if column.kind == "double"))
    return _select(json_object(_typed_cells(columns, doubles), numbers), shape, doubles)


def csv_lines(shape: QueryShape, columns: Sequence[Column]) -> Select[Any]:
    """Return the query for lines of CSV (RFC 4180): text is quoted, and null is an empty cell."""
    doubles = _doubles(columns)
    return _select(csv_line(_typed_cells(columns, doubles)), shape, doubles)


def table_lines(shape: QueryShape, columns: Sequence[Column]) -> Select[Any]:
    """Return the query for lines of CSV with every digit, as `parquet` reads them."""
    return _select(table_line({column.name: MEMBERS[column.member](QuoteRow) for column in columns}), shape, None)


def csv_line(cells: Cells) -> ColumnElement[str]:
    """Return the SQL of a CSV line."""
    # Many CSV parsers skip an empty line, so a single null is written as quotation marks.
    return func.concat_ws(",", *_csv_cells(cells, null="" if len(cells) > 1 else '""'))


def table_line(cells: Cells) -> ColumnElement[str]:
    """Return the SQL of a CSV line that starts with an empty cell, so that no line is empty. Null is an empty cell."""
    return func.concat_ws(",", "", *_csv_cells(cells, null=""))


def _csv_cells(cells: Cells, null: str) -> list[ColumnElement[Any]]:
    return [_csv_cell(name, cast(value, Text), null) for name, value in cells.items()]


def _csv_cell(name: str, value: ColumnElement[str], null: str) -> ColumnElement[Any]:
    return csv_text(value) if name in FREE_TEXT else func.coalesce(value, null)


def _typed_cells(columns: Sequence[Column], doubles: FromClause | None) -> Cells:
    """Return cells from whose text a program can infer the type of each column."""
    return {column.name: _typed_cell(column, doubles) for column in columns}


def _typed_cell(column: Column, doubles: FromClause | None) -> ColumnElement[Any]:
    if column.kind == "time":
        return sortable_instant_sql(getattr(QuoteRow, column.member))
    if column.kind == "decimal":
        return _decimal_literal(getattr(QuoteRow, column.member))
    if column.kind == "double" and doubles is not None:
        return _double_literal(doubles.c[column.member])
    return MEMBERS[column.member](QuoteRow)


def _decimal_literal(number: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the SQL of a NUMERIC with every digit and at least one decimal place.

    Without decimal places, DuckDB takes the first rows for whole numbers, and rounds later fractions without an error.
    """
    return number_sql(number).concat(case((func.scale(number) == 0, ".0"), else_=""))


def _double_literal(number: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the SQL of the shortest text that reads as this double, with a decimal place or an exponent."""
    is_whole = (number == func.trunc(number)) & (func.abs(number) < EXPONENT_FROM)
    return cast(number, Text).concat(case((is_whole, ".0"), else_=""))


def _doubles(columns: Sequence[Column]) -> FromClause | None:
    """Return a subquery that converts the amounts of a row to doubles, or None if there are none."""
    names = [column.member for column in columns if column.kind == "double"]
    doubles = select(*[cast(getattr(QuoteRow, name), Double).label(name) for name in names])
    # OFFSET 0 prevents Postgres from repeating the conversion for each use of a double.
    return doubles.offset(0).correlate(QuoteRow).lateral("doubles") if names else None


def _select(line: ColumnElement[str], shape: QueryShape, doubles: FromClause | None) -> Select[Any]:
    """Return the query that selects every row in order, each formatted as one line."""
    query = (
        select(line)
        .select_from(QuoteRow)
        .join(ListingRow, ListingRow.id == QuoteRow.listing_id)
        .join(AssetRow, AssetRow.id == ListingRow.asset)
    )
    query = query if doubles is None else query.join(doubles, true())
    return query.where(*shape.all()).order_by(*shape.order(QuoteRow))
