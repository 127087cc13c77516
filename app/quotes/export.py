"""Export quotes as a file: every selected row of one snapshot, in CSV, NDJSON or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl
from flask import Response, request
from sqlalchemy import Connection, Select

from app.exports.parquet import TIME, parquet
from app.exports.stream import FileRows, Pieces, csv_file, joined, stream_file
from app.quotes.export_columns import DECIMAL_DIGITS, NUMBERS, Column, fitted_columns, rounded, uniform_columns
from app.quotes.export_lines import csv_lines, json_lines, table_lines
from app.quotes.selection import QueryShape, Selection
from app.web.formats import instant

INGESTED_UNTIL = "X-Ingested-Until"
ROUNDED_COLUMNS = "X-Rounded-Columns"


@dataclass(frozen=True)
class _File:
    """The columns, the number of rows, and the watermark of a file.

    numbers: the parameter `numbers`. summary: whether a last line reports that the file is complete.
    """

    columns: Sequence[Column]
    rows: int
    ingested_until: str
    numbers: str
    summary: bool


@dataclass(frozen=True)
class Format:
    """A file format.

    lines: returns the query for the lines. encode: yields the bytes of the file from its lines. numbers: the allowed
    values of the parameter `numbers`; the first is the default.
    """

    media_type: str
    lines: Callable[[QueryShape, Sequence[Column]], Select[Any]]
    encode: Callable[[_File, Pieces], Iterator[bytes]]
    numbers: Sequence[str]


def _csv(file: _File, pieces: Pieces) -> Iterator[bytes]:
    yield from csv_file([column.name for column in file.columns], pieces)


def _ndjson(file: _File, pieces: Pieces) -> Iterator[bytes]:
    yield from map(joined, pieces)
    if file.summary:
        last = {"complete": True, "rows": file.rows, "ingested_until": file.ingested_until}
        yield joined([json.dumps(last, separators=(",", ":"))])


def _parquet(file: _File, pieces: Pieces) -> Iterator[bytes]:
    metadata = {
        "rows": str(file.rows),
        "ingested_until": file.ingested_until,
        "query": request.query_string.decode(),
        "numbers": file.numbers,
        "rounded_columns": rounded(file.columns),
    }
    types = {column.name: _parquet_type(column) for column in file.columns}
    return parquet(pieces, types, {f"kasparro.{name}": value for name, value in metadata.items()})


def _parquet_type(column: Column) -> pl.DataType:
    if column.kind == "decimal":
        return pl.Decimal(DECIMAL_DIGITS, column.scale)
    types = {"text": pl.String(), "whole": pl.Int32(), "time": TIME, "double": pl.Float64()}
    return types[column.kind]


FORMATS: Mapping[str, Format] = {
    "csv": Format("text/csv", csv_lines, _csv, ("decimal", "double", "text")),
    # No decimals: pandas reads JSON numbers with many digits wrongly, by up to 0.1 %.
    "ndjson": Format("application/x-ndjson", json_lines, _ndjson, ("double", "text")),
    "parquet": Format("application/vnd.apache.parquet", table_lines, _parquet, NUMBERS),
}


def export(arguments: Mapping[str, Any], until: datetime) -> Response:
    """Return the selected quotes as a file. until: the watermark, read before the file's snapshot.

    Raise a Problem if the maximum number of exports is already running.
    """
    name, format_ = arguments["format"], FORMATS[arguments["format"]]
    select_rows = partial(_select_rows, arguments, instant(until))
    response = stream_file(f"quotes.{name}", format_.media_type, select_rows)
    response.headers[INGESTED_UNTIL] = instant(until)
    return response


def _select_rows(arguments: Mapping[str, Any], ingested_until: str, connection: Connection) -> FileRows:
    format_ = FORMATS[arguments["format"]]
    numbers = arguments.get("numbers", format_.numbers[0])
    selection = Selection(connection, arguments)
    rows = selection.count()
    if (arguments["format"], numbers) == ("parquet", "decimal"):
        columns = fitted_columns(connection, selection, arguments["members"], rows)
    else:
        columns = uniform_columns(arguments["members"], numbers)
    file = _File(columns, rows, ingested_until, numbers, summary=arguments.get("summary") == "line")
    headers = {ROUNDED_COLUMNS: names} if (names := rounded(columns)) else {}
    lines = format_.lines(selection.shape, columns)
    return FileRows(rows, lines, selection.parameters, partial(format_.encode, file), headers)
