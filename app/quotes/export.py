"""A list as a file: every row that is asked for, of one snapshot, through a server-side cursor, provably complete."""

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
    """What is asked for. rows: how many there are."""

    members: Sequence[str]
    rows: int
    ingested_until: str


@dataclass(frozen=True)
class Format:
    """A kind of file. encode: its bytes, from its rows as lines."""

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
    about = {"rows": str(file.rows), "ingested_until": file.ingested_until, "query": request.query_string.decode()}
    return parquet(pieces, file.members, {f"kasparro.{name}": value for name, value in about.items()})


FORMATS: Mapping[str, Format] = {
    "csv": Format("text/csv", csv_line, _csv),
    "ndjson": Format("application/x-ndjson", json_line, _ndjson),
    "parquet": Format("application/vnd.apache.parquet", table_line, _parquet),
}


def export(arguments: Mapping[str, Any], until: datetime) -> Response:
    """The quotes that are asked for, as a file. until: the time before which nothing can be written any more.

    Raises a Problem where as many exports are under way as may be.
    """
    form, name = FORMATS[arguments["format"]], arguments["format"]
    members: Sequence[str] = arguments["members"]

    def find(connection: Connection) -> FileRows:
        selection = Selection(connection, arguments)
        return FileRows(selection.count(), lines(selection.shape, members, form.line), selection.parameters)

    def encode(pieces: Pieces, rows: int) -> Iterator[bytes]:
        return form.encode(pieces, _File(members, rows, instant(until)))

    answer = stream_file(f"quotes.{name}", form.media_type, find, encode)
    answer.headers[INGESTED_UNTIL] = instant(until)
    return answer
