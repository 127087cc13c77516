"""Export quotes as a file: every selected row of one snapshot, in CSV, NDJSON or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Response, request
from sqlalchemy import Connection

from app.exports.parquet import parquet
from app.exports.stream import FileRows, Pieces, csv_file, joined, stream_file
from app.quotes.export_lines import Line, csv_line, json_line, lines, table_line
from app.quotes.selection import Selection
from app.web.formats import instant

INGESTED_UNTIL = "X-Ingested-Until"


@dataclass(frozen=True)
class _File:
    """The members of each row, the number of rows, and the watermark of a file."""

    members: Sequence[str]
    rows: int
    ingested_until: str


@dataclass(frozen=True)
class Format:
    """A file format. line: returns the SQL of a row's line. encode: yields the bytes of the file from its lines."""

    media_type: str
    line: Line
    encode: Callable[[Pieces, _File], Iterator[bytes]]


def _csv(pieces: Pieces, file: _File) -> Iterator[bytes]:
    yield from csv_file(file.members, pieces)


def _ndjson(pieces: Pieces, file: _File) -> Iterator[bytes]:
    yield from map(joined, pieces)
    last = {"complete": True, "rows": file.rows, "ingested_until": file.ingested_until}
    yield joined([json.dumps(last, separators=(",", ":"))])


def _parquet(pieces: Pieces, file: _File) -> Iterator[bytes]:
    metadata = {"rows": str(file.rows), "ingested_until": file.ingested_until, "query": request.query_string.decode()}
    return parquet(pieces, file.members, {f"kasparro.{name}": value for name, value in metadata.items()})


FORMATS: Mapping[str, Format] = {
    "csv": Format("text/csv", csv_line, _csv),
    "ndjson": Format("application/x-ndjson", json_line, _ndjson),
    "parquet": Format("application/vnd.apache.parquet", table_line, _parquet),
}


def export(arguments: Mapping[str, Any], until: datetime) -> Response:
    """Return the selected quotes as a file. until: the watermark, read before the file's snapshot.

    Raise a Problem if the maximum number of exports is already running.
    """
    name, format_ = arguments["format"], FORMATS[arguments["format"]]
    members: Sequence[str] = arguments["members"]

    def select_rows(connection: Connection) -> FileRows:
        selection = Selection(connection, arguments)
        return FileRows(selection.count(), lines(selection.shape, members, format_.line), selection.parameters)

    def encode(pieces: Pieces, rows: int) -> Iterator[bytes]:
        return format_.encode(pieces, _File(members, rows, instant(until)))

    response = stream_file(f"quotes.{name}", format_.media_type, select_rows, encode)
    response.headers[INGESTED_UNTIL] = instant(until)
    return response
