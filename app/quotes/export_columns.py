"""Choose the columns of a file: how each number is written, and which columns may be rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

from sqlalchemy import Connection, func, select

from app.quotes.fields import AMOUNTS, TIMES, WHOLE_NUMBERS
from app.quotes.selection import Selection
from store.tables import QuoteRow

NUMBERS = ("double", "decimal", "text")
"""The values of the parameter `numbers`."""

DECIMAL_DIGITS = 38
"""polars reads no decimal with more digits, and DuckDB rounds it to a double without a warning."""

MEAN_DIGITS = 6
"""Additional decimal places of a column, if they fit. pyarrow cuts off a mean at the last decimal place."""

Kind = Literal["text", "whole", "time", "double", "decimal"]


@dataclass(frozen=True)
class Column:
    """A column of a file. member: the member of a quote that it contains. scale: the decimal places of a decimal."""

    name: str
    member: str
    kind: Kind
    scale: int = 0


class Digits(NamedTuple):
    """The largest absolute value of a member, and its largest number of decimal places."""

    largest: Decimal
    places: int

    def scale(self, rows: int) -> int | None:
        """Return the scale of a decimal that holds each value and their sum, or None if there is no such decimal.

        The sum matters, because pyarrow's sum and mean overflow without an error.
        """
        places_left = DECIMAL_DIGITS - len(str((int(self.largest) + 1) * max(rows, 1)))
        return min(self.places + MEAN_DIGITS, places_left) if self.places <= places_left else None


def uniform_columns(members: Sequence[str], numbers: str) -> list[Column]:
    """Return the columns of a file that writes all amounts in the same way."""
    amounts: Kind = "double" if numbers == "double" else "decimal" if numbers == "decimal" else "text"
    return [Column(name, name, amounts if name in AMOUNTS else _kind(name)) for name in members]


def fitted_columns(connection: Connection, selection: Selection, members: Sequence[str], rows: int) -> list[Column]:
    """Return columns that are decimals where all selected values fit. This reads each selected row once.

    An amount that does not fit has two columns: the nearest doubles, and `<name>_text` with every digit.
    """
    digits = _digits(connection, selection, [name for name in members if name in AMOUNTS])
    return [column for name in members for column in _fitted(name, digits.get(name), rows)]


def rounded(columns: Sequence[Column]) -> str:
    """Return the comma-separated names of the columns whose values may be rounded to the nearest double."""
    return ",".join(column.name for column in columns if column.kind == "double")


def _fitted(name: str, digits: Digits | None, rows: int) -> Iterator[Column]:
    scale = digits.scale(rows) if digits else None
    if scale is not None:
        yield Column(name, name, "decimal", scale)
    elif digits:
        yield Column(name, name, "double")
        yield Column(f"{name}_text", name, "text")
    else:
        yield Column(name, name, _kind(name))


def _kind(name: str) -> Kind:
    return "time" if name in TIMES else "whole" if name in WHOLE_NUMBERS else "text"


def _digits(connection: Connection, selection: Selection, names: Sequence[str]) -> Mapping[str, Digits]:
    if not names:
        return {}
    amounts = [getattr(QuoteRow, name) for name in names]
    figures = [
        figure for amount in amounts for figure in (func.max(func.abs(amount)), func.max(func.min_scale(amount)))
    ]
    query = select(*figures).select_from(QuoteRow).where(*selection.shape.all())
    largest_and_places = iter(connection.execute(query, selection.parameters).one())
    return {name: Digits(next(largest_and_places) or Decimal(0), next(largest_and_places) or 0) for name in names}
