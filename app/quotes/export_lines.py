"""A row of an export as one line of text, written by Postgres and passed on as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, cast, func, select

from app.exports.stream import csv_text
from app.quotes.fields import FREE_TEXT, MEMBERS, json_object
from app.quotes.selection import QueryShape
from store.tables import AssetRow, ListingRow, QuoteRow

Line = Callable[[Mapping[str, ColumnElement[Any]]], ColumnElement[str]]
"""The line that a row of members becomes, without its end."""

json_line: Line = json_object


def csv_line(members: Mapping[str, ColumnElement[Any]]) -> ColumnElement[str]:
    """As RFC 4180 has it: words in quotation marks, nothing at all for null."""
    # A line with nothing on it is no row to many who read such files.
    return func.concat_ws(",", *_cells(members, null="" if len(members) > 1 else '""'))


def table_line(members: Mapping[str, ColumnElement[Any]]) -> ColumnElement[str]:
    """The same after an empty cell, so that nothing is null wherever nothing stands."""
    return func.concat_ws(",", "", *_cells(members, null=""))


def _cells(members: Mapping[str, ColumnElement[Any]], null: str) -> list[ColumnElement[Any]]:
    return [_cell(name, cast(value, Text), null) for name, value in members.items()]


def _cell(name: str, value: ColumnElement[str], null: str) -> ColumnElement[Any]:
    if name in FREE_TEXT:
        return csv_text(value)
    return func.coalesce(value, null)


def lines(shape: QueryShape, members: Sequence[str], line: Line) -> Select[str]:
    """Every row of a selection, in its order, as one column of lines."""
    return (
        select(line({name: MEMBERS[name](QuoteRow) for name in members}))
        .select_from(QuoteRow)
        .join(ListingRow, ListingRow.id == QuoteRow.listing_id)
        .join(AssetRow, AssetRow.id == ListingRow.asset)
        .where(*shape.all())
        .order_by(*shape.order(QuoteRow))
    )
