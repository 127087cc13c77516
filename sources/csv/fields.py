"""Parse the cells of many rows as fields of the unified record, with the same result as `FileSet.record` per row.

If a cell cannot be parsed with certainty, its field gets a value that the columnar validator does not accept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import polars as pl

from sources.csv.fileset import PLACEHOLDER, FileSet, Unreadable
from sources.csv.times import EPOCHS
from sources.record import KEY_FIELDS, VALUE_FIELDS
from sources.record_columns import TIME, read_iso

NOT_A_NUMBER = "?"

# The number of digits is limited, so that the result fits into a time in microseconds.
EPOCH_PATTERNS = {
    "epoch_s": r"^[+-]?[0-9]{1,12}$",
    "epoch_ms": r"^[+-]?[0-9]{1,15}$",
    "epoch_us": r"^[+-]?[0-9]{1,18}$",
}


def frame_column(column: str) -> str:
    """Return the name of a file's column in a frame.

    The prefix is needed: polars would read `*`, and a name that starts with `^` and ends with `$`, as a pattern.
    """
    return f"column {column}"


def read_fields(file_set: FileSet, file: str, cells: pl.DataFrame) -> list[pl.DataFrame] | None:
    """Return one frame of fields for each price in a row; None if the file set requires parsing row by row.

    cells: the cells as stripped text, in columns named by `frame_column`.
    """
    if not all(_is_plain(name, value) for name, value in file_set.constants.items()) or any(
        not suffix.isalpha() or "e" in suffix.casefold() for suffix in file_set.suffixes
    ):
        return None
    columns_by_currency = file_set.currencies.items() if file_set.currencies else [(None, {})]
    times: dict[str, pl.Series] = {}
    frames = []
    for currency, own in columns_by_currency:
        columns = {**file_set.columns, **own}
        frame = cells.select(*_fields(file_set, file, columns, currency))
        if (column := columns.get("observed_at")) is not None:
            if column not in times:
                times[column] = _times(file_set, cells[frame_column(column)])
            frame = frame.with_columns(times[column].alias("observed_at"))
        frames.append(frame)
    return frames


def _fields(file_set: FileSet, file: str, columns: Mapping[str, str], currency: str | None) -> Iterator[pl.Expr]:
    # Without this column, a frame of literals alone would have one row.
    yield pl.int_range(pl.len(), dtype=pl.UInt32).alias("row")
    for name, value in file_set.constants.items():
        yield pl.lit(str(value)).alias(name)
    for name, column in columns.items():
        if name in KEY_FIELDS:
            yield _known_text(file_set, pl.col(frame_column(column))).alias(name)
        elif name != "observed_at":
            yield _number(file_set, pl.col(frame_column(column)), percent=name == "change_24h_pct").alias(name)
    for name, template in file_set.templates.items():
        yield _filled(file_set, file, template).alias(name)
    if currency:
        yield pl.lit(currency).alias("quote_currency")


def _is_plain(name: str, value: object) -> bool:
    """Return whether a constant can be converted to text without changing its meaning."""
    return type(value) is str or (name in VALUE_FIELDS and type(value) in (int, Decimal))


def _is_null(file_set: FileSet, cell: pl.Expr) -> pl.Expr:
    return cell.is_in(sorted(file_set.nulls))


def _known_text(file_set: FileSet, cell: pl.Expr) -> pl.Expr:
    return pl.when(_is_null(file_set, cell)).then(pl.lit("")).otherwise(cell)


def _number(file_set: FileSet, cell: pl.Expr, *, percent: bool) -> pl.Expr:
    number = cell.str.strip_suffix("%") if percent else cell
    if file_set.decimal != "." or file_set.thousands or file_set.suffixes:
        number = (
            pl.when(number.str.contains(_pattern(file_set)))
            .then(_plain(file_set, number))
            .otherwise(pl.lit(NOT_A_NUMBER))
        )
    return pl.when(~_is_null(file_set, cell)).then(number)


def _plain(file_set: FileSet, number: pl.Expr) -> pl.Expr:
    """Convert a number that matches the pattern to plain or exponent notation."""
    if file_set.thousands:
        number = number.str.replace_all(file_set.thousands, "", literal=True)
    if file_set.decimal != ".":
        number = number.str.replace(file_set.decimal, ".", literal=True)
    for suffix, power in file_set.suffixes.items():
        number = number.str.replace(f"{_literal(suffix)}$", f"E{power}")
    return number


def _pattern(file_set: FileSet) -> str:
    """Return the regular expression for numbers in the declared format, in the syntax of polars."""
    thousands, decimal = _literal(file_set.thousands), _literal(file_set.decimal)
    grouped = rf"[0-9]{{1,3}}(?:{thousands}[0-9]{{3}})+|" if thousands else ""
    suffixes = "".join(f"|{_literal(suffix)}" for suffix in file_set.suffixes)
    digits = rf"(?:(?:{grouped}[0-9]+)(?:{decimal}[0-9]*)?|{decimal}[0-9]+)"
    return rf"^[+-]?{digits}(?:[eE][+-]?[0-9]{{1,4}}{suffixes})?$"


def _literal(text: str) -> str:
    return "".join(rf"\x{{{ord(char):x}}}" for char in text)


def _filled(file_set: FileSet, file: str, template: str) -> pl.Expr:
    """Fill in the template's placeholders. Return an empty text if a value is unknown."""
    groups = file_set.path_groups(file)
    parts: list[pl.Expr] = []
    values: list[pl.Expr] = []
    for index, text in enumerate(PLACEHOLDER.split(template)):
        # Every second part is the name of a placeholder.
        if index % 2:
            values.append(pl.lit(groups[text].strip()) if text in groups else pl.col(frame_column(text)))
            parts.append(values[-1])
        elif text:
            parts.append(pl.lit(text))
    unknown = pl.any_horizontal(pl.lit(value=False), *(_is_null(file_set, value) for value in values))
    return pl.when(~unknown).then(pl.concat_str(parts) if parts else pl.lit("")).otherwise(pl.lit(""))


def _times(file_set: FileSet, cells: pl.Series) -> pl.Series:
    """Parse cells as times, with the same result as `FileSet.time`; null for a cell in no declared format."""
    times = _times_in_bulk(file_set, cells)
    unread = cells.filter(times.is_null()).unique()
    if not len(unread):
        return times
    # Many rows have the same time, such as a date, so parse each distinct cell only once.
    others = cells.replace_strict(
        unread, pl.Series([_time(file_set, cell) for cell in unread], dtype=TIME), default=None
    )
    return times.fill_null(others)


def _times_in_bulk(file_set: FileSet, cells: pl.Series) -> pl.Series:
    """Parse times in the first declared format, if polars supports it; null for all other cells."""
    time_format = file_set.times[0]
    if time_format == "iso" and file_set.timezone is UTC:
        return read_iso(cells, naive=True)
    if time_format in EPOCHS:
        pattern = EPOCH_PATTERNS[time_format]
        numbers = cells.to_frame("cell").select(pl.when(pl.col("cell").str.contains(pattern)).then("cell"))
        microseconds = numbers.to_series().cast(pl.Int64) * (EPOCHS[time_format])
        return microseconds.cast(TIME)
    return pl.Series([None], dtype=TIME).new_from_index(0, len(cells))


def _time(file_set: FileSet, cell: str) -> datetime | None:
    try:
        return file_set.time(cell).astimezone(UTC)
    except (Unreadable, OverflowError):
        return None
