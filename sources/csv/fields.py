"""The cells of many rows as fields of the unified record, by a file set. It says what FileSet.record says of each row.

What it cannot surely read it leaves so that the columnar validator does not take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import polars as pl

from sources.csv.fileset import EPOCHS, PLACEHOLDER, FileSet, Unreadable
from sources.record import KEY_FIELDS, VALUE_FIELDS
from sources.record_columns import TIME, read_iso

NO_NUMBER = "?"
# In each unit so many that a date's microseconds do not overflow.
COUNTED = {"epoch_s": r"^[+-]?[0-9]{1,12}$", "epoch_ms": r"^[+-]?[0-9]{1,15}$", "epoch_us": r"^[+-]?[0-9]{1,18}$"}


def in_frame(column: str) -> str:
    """What a file's column is called in a frame. polars takes `*`, and all from `^` to `$`, for patterns of names."""
    return f"column {column}"


def fields_of(file_set: FileSet, file: str, cells: pl.DataFrame) -> list[pl.DataFrame] | None:
    """For each price of a row a frame of fields, and in it a row for each row; None for what it cannot do.

    cells: text by the names of the columns, as `in_frame` has them, without white space around it.
    """
    if not all(_is_plain(name, value) for name, value in file_set.constants.items()) or any(
        not suffix.isalpha() or "e" in suffix.casefold() for suffix in file_set.suffixes
    ):
        return None
    sides = file_set.currencies.items() if file_set.currencies else [(None, {})]
    times: dict[str, pl.Series] = {}
    frames = []
    for currency, own in sides:
        columns = {**file_set.columns, **own}
        frame = cells.select(*_fields(file_set, file, columns, currency))
        if (column := columns.get("observed_at")) is not None:
            if column not in times:
                times[column] = _times(file_set, cells[in_frame(column)])
            frame = frame.with_columns(times[column].alias("observed_at"))
        frames.append(frame)
    return frames


def _fields(file_set: FileSet, file: str, columns: Mapping[str, str], currency: str | None) -> Iterator[pl.Expr]:
    # Literals alone would be one row.
    yield pl.int_range(pl.len(), dtype=pl.UInt32).alias("row")
    for name, value in file_set.constants.items():
        yield pl.lit(str(value)).alias(name)
    for name, column in columns.items():
        if name in KEY_FIELDS:
            yield _known_text(file_set, pl.col(in_frame(column))).alias(name)
        elif name != "observed_at":
            yield _number(file_set, pl.col(in_frame(column)), percent=name == "change_24h_pct").alias(name)
    for name, template in file_set.templates.items():
        yield _filled(file_set, file, template).alias(name)
    if currency:
        yield pl.lit(currency).alias("quote_currency")


def _is_plain(name: str, value: object) -> bool:
    """Whether a constant means the same when it is written as text."""
    return type(value) is str or (name in VALUE_FIELDS and type(value) in (int, Decimal))


def _is_null(file_set: FileSet, cell: pl.Expr) -> pl.Expr:
    return cell.is_in(sorted(file_set.nulls))


def _known_text(file_set: FileSet, cell: pl.Expr) -> pl.Expr:
    return pl.when(_is_null(file_set, cell)).then(pl.lit("")).otherwise(cell)


def _number(file_set: FileSet, cell: pl.Expr, *, percent: bool) -> pl.Expr:
    written = cell.str.strip_suffix("%") if percent else cell
    if file_set.decimal != "." or file_set.thousands or file_set.suffixes:
        written = (
            pl.when(written.str.contains(_pattern(file_set)))
            .then(_plain(file_set, written))
            .otherwise(pl.lit(NO_NUMBER))
        )
    return pl.when(~_is_null(file_set, cell)).then(written)


def _plain(file_set: FileSet, written: pl.Expr) -> pl.Expr:
    if file_set.thousands:
        written = written.str.replace_all(file_set.thousands, "", literal=True)
    if file_set.decimal != ".":
        written = written.str.replace(file_set.decimal, ".", literal=True)
    for suffix, power in file_set.suffixes.items():
        written = written.str.replace(f"{_literal(suffix)}$", f"E{power}")
    return written


def _pattern(file_set: FileSet) -> str:
    """What FileSet takes for a number, in polars' spelling."""
    thousands, decimal = _literal(file_set.thousands), _literal(file_set.decimal)
    grouped = rf"[0-9]{{1,3}}(?:{thousands}[0-9]{{3}})+|" if thousands else ""
    suffixes = "".join(f"|{_literal(suffix)}" for suffix in file_set.suffixes)
    digits = rf"(?:(?:{grouped}[0-9]+)(?:{decimal}[0-9]*)?|{decimal}[0-9]+)"
    return rf"^[+-]?{digits}(?:[eE][+-]?[0-9]{{1,4}}{suffixes})?$"


def _literal(text: str) -> str:
    return "".join(rf"\x{{{ord(char):x}}}" for char in text)


def _filled(file_set: FileSet, file: str, template: str) -> pl.Expr:
    """The template with its values; nothing at all if one of them is unknown."""
    groups = file_set.path_groups(file)
    parts: list[pl.Expr] = []
    values: list[pl.Expr] = []
    for place, text in enumerate(PLACEHOLDER.split(template)):
        if place % 2:
            values.append(pl.lit(groups[text].strip()) if text in groups else pl.col(in_frame(text)))
            parts.append(values[-1])
        elif text:
            parts.append(pl.lit(text))
    unknown = pl.any_horizontal(pl.lit(value=False), *(_is_null(file_set, value) for value in values))
    return pl.when(~unknown).then(pl.concat_str(parts) if parts else pl.lit("")).otherwise(pl.lit(""))


def _times(file_set: FileSet, cells: pl.Series) -> pl.Series:
    """The first of the declared spellings that fits tells the time, as FileSet.time does; null where none does."""
    read = _in_bulk(file_set, cells)
    unread = cells.filter(read.is_null()).unique()
    if not len(unread):
        return read
    # Many rows are of few days.
    slowly = cells.replace_strict(
        unread, pl.Series([_time(file_set, cell) for cell in unread], dtype=TIME), default=None
    )
    return read.fill_null(slowly)


def _in_bulk(file_set: FileSet, cells: pl.Series) -> pl.Series:
    written = file_set.times[0]
    if written == "iso" and file_set.timezone is UTC:
        return read_iso(cells, naive=True)
    if written in EPOCHS:
        counted = cells.to_frame("cell").select(pl.when(pl.col("cell").str.contains(COUNTED[written])).then("cell"))
        microseconds = counted.to_series().cast(pl.Int64) * (EPOCHS[written])
        return microseconds.cast(TIME)
    return pl.Series([None], dtype=TIME).new_from_index(0, len(cells))


def _time(file_set: FileSet, cell: str) -> datetime | None:
    try:
        return file_set.time(cell).astimezone(UTC)
    except (Unreadable, OverflowError):
        return None
