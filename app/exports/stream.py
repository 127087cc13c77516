"""Stream a list as a file: every requested row, from one snapshot, through a server-side cursor."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, NamedTuple

import psycopg2
import structlog
from flask import Response, request
from sqlalchemy import ColumnElement, Connection, Select, func
from sqlalchemy.exc import SQLAlchemyError

from app.exports.client import ClientConnection
from app.web.context import context
from app.web.problems import Code, Problem
from store.errors import describe

log = structlog.get_logger(__name__)

ROWS = 1000
"""Rows of one FETCH, half a megabyte as JSON."""

RETRY_AFTER = 10
"""Seconds after which another try is worth it, where as many exports are under way as may be."""

ROW_COUNT = "X-Row-Count"

FILE = {"type": "string", "format": "binary"}
"""The schema of a file, for the documentation."""

ROW_COUNT_HEADER = {ROW_COUNT: {"description": "How many rows the file has.", "schema": {"type": "integer"}}}

Pieces = Iterator[Sequence[str]]
"""The lines of a file, as many at a time as one FETCH brings."""


class FileRows(NamedTuple):
    """What goes into a file: how many rows there are, and the query that gives each as a line."""

    total: int
    lines: Select[Any]
    parameters: Mapping[str, Any]


def stream_file(
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
        connection = held.enter_context(context().exporter.connect())
        rows = find(connection)
        pieces = _pieces(connection, rows)
        # What is wrong with the query shows here, while it can still be said.
        pieces = chain([next(pieces)], pieces) if rows.total else pieces
        reader = ClientConnection(request.environ, context().settings.export_patience)
        body = _sent(reader, encode(pieces, rows.total), {"file": name, "rows": rows.total})
        answer = Response(body, mimetype=media_type)
        answer.call_on_close(held.pop_all().close)
    answer.headers[ROW_COUNT] = str(rows.total)
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


@contextmanager
def _slot() -> Iterator[None]:
    slots = context().export_slots
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


def _sent(reader: ClientConnection, body: Iterator[bytes], about: Mapping[str, Any]) -> Iterator[bytes]:
    """The file on its way. What ends it early breaks the connection, or a part of it would be taken for the whole."""
    started, reason = time.monotonic(), "the reader left, or was too slow"
    with reader:
        try:
            yield from body
            reader.done()
            reason = ""
        except Exception as error:  # its status is sent: there is nobody left to tell
            reason = describe(error)
            if not isinstance(error, SQLAlchemyError | psycopg2.Error):
                log.error("exception_unhandled", exc_info=error)
            raise ConnectionResetError(errno.ECONNRESET, reason) from None
        finally:
            took = round(time.monotonic() - started, 3)
            if reason:
                log.warning("export_aborted", reason=reason, duration_seconds=took, **about)
            else:
                log.info("export_sent", duration_seconds=took, **about)


def csv_file(header: Sequence[str], pieces: Pieces) -> Iterator[bytes]:
    yield joined([",".join(header)])
    yield from map(joined, pieces)


def joined(piece: Sequence[str]) -> bytes:
    return ("\n".join(piece) + "\n").encode()


def csv_text(value: Any) -> ColumnElement[str]:
    """A cell in which a comma, a quotation mark or the end of a line may stand."""
    return func.concat('"', func.replace(value, '"', '""'), '"')
