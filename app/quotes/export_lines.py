"""Build the SQL that formats each exported row as one line of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, cast, func, select

from app.exports.stream import csv_text
from app.quotes.fields import FREE_TEXT, MEMBERS, json_object
from app.quotes.selection import QueryShape
from store.tables import AssetRow, ListingRow, QuoteRow

Line = Callable[[Mapping[str, ColumnElement[Any]]], ColumnElement[str]]
"""A function that returns the SQL of a row's line, without the line break."""

json_line: Line = json_object


def csv_line(members: Mapping[str, ColumnElement[Any]]) -> ColumnElement[str]:
    """Return the SQL of a CSV line (RFC 4180): text is quoted, and null is an empty cell."""
    # Many CSV parsers skip an empty line, so a single null is written as quotation marks.
    return func.concat_ws(",", *_cells(members, null="" if len(members) > 1 else '""'))


def table_line(members: Mapping[str, ColumnElement[Any]]) -> ColumnElement[str]:
    """Return the SQL of a CSV line that starts with an empty cell, so that no line is empty. Null is an empty cell."""
    return func.concat_ws(",", "", *_cells(members, null=""))


def _cells(members: Mapping[str, ColumnElement[Any]], null: str) -> list[ColumnElement[Any]]:
    return [_cell(name, cast(value, Text), null) for name, value in members.items()]


def _cell(name: str, value: ColumnElement[str], null: str) -> ColumnElement[Any]:
    if name in FREE_TEXT:
        return csv_text(value)
    return func.coalesce(value, null)


def lines(shape: QueryShape, members: Sequence[str], line: Line) -> Select[str]:
    """Return the query that selects every row in order, each formatted as one line."""
    return (
        select(line({name: MEMBERS[name](QuoteRow) for name in members}))
        .select_from(QuoteRow)
        .join(ListingRow, ListingRow.id == QuoteRow.listing_id)
        .join(AssetRow, AssetRow.id == ListingRow.asset)
        .where(*shape.all())
        .order_by(*shape.order(QuoteRow))
    )
