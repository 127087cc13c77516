"""/data as a file: every row that is asked for, of one snapshot, through a server-side cursor, provably complete."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import psycopg2
import structlog
from flask import Response, request
from sqlalchemy import Connection
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
    yield _joined([",".join(file.members)])
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


def export(arguments: Mapping[str, Any], until: datetime) -> Response:
    """The file that is asked for. until: the time before which nothing can be written any more.

    Raises a Problem where as many exports are under way as may be.
    """
    form, name = FORMATS[arguments["format"]], arguments["format"]
    with ExitStack() as held:
        held.enter_context(_slot())
        connection = held.enter_context(state().exporter.connect())
        selection = Selection(connection, arguments)
        file = _File(arguments["members"], selection.count(), instant(until))
        pieces = _pieces(connection, selection, form.line, file)
        # What is wrong with the query shows here, while it can still be said.
        pieces = chain([next(pieces)], pieces) if file.rows else pieces
        reader = Reader(request.environ, state().settings.export_patience)
        body = _sent(reader, form.encode(pieces, file), {"format": name, "rows": file.rows})
        answer = Response(body, mimetype=form.media_type)
        answer.call_on_close(held.pop_all().close)
    answer.headers[ROW_COUNT] = str(file.rows)
    answer.headers[INGESTED_UNTIL] = file.ingested_until
    answer.headers["Content-Disposition"] = f'attachment; filename="quotes.{name}"'
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


def _pieces(connection: Connection, selection: Selection, line: Line, file: _File) -> Pieces:
    """The rows, as many at a time as one FETCH brings; fails if they are not as many as were counted."""
    left = file.rows
    found = connection.execution_options(yield_per=ROWS).scalars(
        lines(selection.shape, file.members, line), selection.parameters
    )
    for piece in found.partitions():
        left -= len(piece)
        yield piece
    if left:
        raise RuntimeError(f"an export of {file.rows} rows ended with {left} to come")


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
