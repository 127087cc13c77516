"""A list as a file: every row that is asked for, of one snapshot, through a server-side cursor, provably complete."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

import psycopg2
import structlog
from flask import Response, request
from sqlalchemy import Connection, Select
from sqlalchemy.exc import SQLAlchemyError

from app.lines import Line, csv_line, json_line, lines, table_line
from app.parquet import parquet
from app.problems import Code, Problem
from app.reader import Reader
from app.selection import Selection
from app.state import state
from app.wire import instant
from store.trouble import named

log = structlog.get_logger(__name__)

ROWS = 1000
"""Rows of one FETCH, half a megabyte as JSON."""

RETRY_AFTER = 10
"""Seconds after which another try is worth it, where as many exports are under way as may be."""

ROW_COUNT, INGESTED_UNTIL = "X-Row-Count", "X-Ingested-Until"

Pieces = Iterator[Sequence[str]]


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


def csv_file(header: Sequence[str], pieces: Pieces) -> Iterator[bytes]:
    yield _joined([",".join(header)])
    yield from map(_joined, pieces)


def _ndjson(pieces: Pieces, file: _File) -> Iterator[bytes]:
    yield from map(_joined, pieces)
    last = {"complete": True, "rows": file.rows, "ingested_until": file.ingested_until}
    yield _joined([json.dumps(last, separators=(",", ":"))])


def _parquet(pieces: Pieces, file: _File) -> Iterator[bytes]:
    about = {"rows": str(file.rows), "ingested_until": file.ingested_until, "query": request.query_string.decode()}
    return parquet(pieces, file.members, {f"kasparro.{name}": value for name, value in about.items()})


def _joined(piece: Sequence[str]) -> bytes:
    return ("\n".join(piece) + "\n").encode()


FORMATS: Mapping[str, Format] = {
    "csv": Format("text/csv", csv_line, _csv),
    "ndjson": Format("application/x-ndjson", json_line, _ndjson),
    "parquet": Format("application/vnd.apache.parquet", table_line, _parquet),
}


class FileRows(NamedTuple):
    """What goes into a file: how many rows there are, and the query that gives each as a line."""

    total: int
    lines: Select[Any]
    parameters: Mapping[str, Any]


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

    answer = send(f"quotes.{name}", form.media_type, find, encode)
    answer.headers[INGESTED_UNTIL] = instant(until)
    return answer


def send(
    name: str,
    media_type: str,
    find: Callable[[Connection], FileRows],
    encode: Callable[[Pieces, int], Iterator[bytes]],
) -> Response:
    """A file of this name, all of one snapshot. encode: its bytes, from its rows as lines and their number.

    Raises a Problem where as many exports are under way as may be.
    """
    with ExitStack() as held:
        held.enter_context(_slot())
        connection = held.enter_context(state().exporter.connect())
        rows = find(connection)
        pieces = _pieces(connection, rows)
        # What is wrong with the query shows here, while it can still be said.
        pieces = chain([next(pieces)], pieces) if rows.total else pieces
        reader = Reader(request.environ, state().settings.export_patience)
        body = _sent(reader, encode(pieces, rows.total), {"file": name, "rows": rows.total})
        answer = Response(body, mimetype=media_type)
        answer.call_on_close(held.pop_all().close)
    answer.headers[ROW_COUNT] = str(rows.total)
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


@contextmanager
def _slot() -> Iterator[None]:
    slots = state().export_slots
    if not slots.acquire(blocking=False):
        raise Problem(
            Code.TOO_MANY_EXPORTS,
            "As many exports are under way as may be at once.",
            headers={"Retry-After": str(RETRY_AFTER)},
        )
    try:
        yield
    finally:
        slots.release()


def _pieces(connection: Connection, rows: FileRows) -> Pieces:
    """The lines, as many at a time as one FETCH brings; fails if they are not as many as were counted."""
    left = rows.total
    found = connection.execution_options(yield_per=ROWS).scalars(rows.lines, dict(rows.parameters))
    for piece in found.partitions():
        left -= len(piece)
        yield piece
    if left:
        raise RuntimeError(f"an export of {rows.total} rows ended with {left} to come")


def _sent(reader: Reader, body: Iterator[bytes], about: Mapping[str, Any]) -> Iterator[bytes]:
    """The file on its way. What ends it early breaks the connection, or a part of it would be taken for the whole."""
    started, reason = time.monotonic(), "the reader left, or was too slow"
    with reader:
        try:
            yield from body
            reader.done()
            reason = ""
        except Exception as error:  # its status is sent: there is nobody left to tell
            reason = named(error)
            if not isinstance(error, SQLAlchemyError | psycopg2.Error):
                log.error("unhandled", exc_info=error)
            raise ConnectionResetError(errno.ECONNRESET, reason) from None
        finally:
            took = round(time.monotonic() - started, 3)
            if reason:
                log.warning("export_broken_off", reason=reason, seconds=took, **about)
            else:
                log.info("export_sent", seconds=took, **about)
