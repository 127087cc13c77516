"""A row of an export as one line of text, written by Postgres and passed on as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, cast, func, literal_column, select, true
from sqlalchemy.sql.selectable import LateralFromClause

from app.quotes import MEMBERS
from app.selection import Shape
from store.tables import Asset, Listing, Quote

Line = Callable[[LateralFromClause], ColumnElement[str]]
"""The line that a row of members becomes, without its end."""

WORDS = ("source", "asset", "symbol", "name", "source_asset_id", "quote_currency")
"""Members that others thought up, in which a comma, a quotation mark or the end of a line may stand."""


def json_line(_: LateralFromClause) -> ColumnElement[str]:
    return cast(func.row_to_json(literal_column("quote")), Text)


def csv_line(quote: LateralFromClause) -> ColumnElement[str]:
    """As RFC 4180 has it: words in quotation marks, nothing at all for null."""
    # A line with nothing on it is no row to many who read such files.
    return func.concat_ws(",", *_cells(quote, null="" if len(quote.c) > 1 else '""'))


def table_line(quote: LateralFromClause) -> ColumnElement[str]:
    """The same after an empty cell, so that nothing is null wherever nothing stands."""
    return func.concat_ws(",", "", *_cells(quote, null=""))


def _cells(quote: LateralFromClause, null: str) -> list[ColumnElement[Any]]:
    return [_cell(column.name, cast(column, Text), null) for column in quote.c]


def _cell(name: str, value: ColumnElement[str], null: str) -> ColumnElement[Any]:
    if name in WORDS:
        return func.concat('"', func.replace(value, '"', '""'), '"')
    return func.coalesce(value, null)


def lines(shape: Shape, members: Sequence[str], line: Line) -> Select[str]:
    """Every row of a selection, in its order, as one column of lines."""
    quote = (
        select(*[MEMBERS[name](Quote).label(name) for name in members])
        .correlate(Quote.__table__, Listing.__table__, Asset.__table__)
        .lateral("quote")
    )
    return (
        select(line(quote))
        .select_from(Quote)
        .join(Listing, Listing.id == Quote.listing_id)
        .join(Asset, Asset.id == Listing.asset)
        .join(quote, true())
        .where(*shape.all())
        .order_by(*shape.order(Quote))
    )
