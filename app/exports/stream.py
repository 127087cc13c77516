"""Stream a list as a file: every requested row, from one snapshot, through a server-side cursor."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from types import MappingProxyType
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

FETCH_ROWS = 1000
"""Rows of one FETCH: about half a megabyte as JSON."""

RETRY_AFTER = 10
"""Seconds after which a client should retry if the maximum number of exports is running."""

ROW_COUNT = "X-Row-Count"

FILE = {"type": "string", "format": "binary"}
"""The schema of a file, for the OpenAPI document."""

ROW_COUNT_HEADER = {ROW_COUNT: {"description": "Number of rows in the file.", "schema": {"type": "integer"}}}

Pieces = Iterator[Sequence[str]]
"""The lines of a file; each item has the lines of one FETCH."""


class FileRows(NamedTuple):
    """The rows of a file. total: the number of rows. lines: the query that returns each row as a line.

    encode: yields the bytes of the file from its lines. headers: further headers of the response.
    """

    total: int
    lines: Select[Any]
    parameters: Mapping[str, Any]
    encode: Callable[[Pieces], Iterator[bytes]]
    headers: Mapping[str, str] = MappingProxyType({})


def stream_file(name: str, media_type: str, select_rows: Callable[[Connection], FileRows]) -> Response:
    """Return a response that streams a file with this name, read from one snapshot.

    Raise a Problem if the maximum number of exports is already running.
    """
    with ExitStack() as resources:
        resources.enter_context(_slot())
        connection = resources.enter_context(context().exporter.connect())
        rows = select_rows(connection)
        pieces = _pieces(connection, rows)
        # Fetch the first rows now: if the query fails, the client can still get an error status.
        pieces = chain([next(pieces)], pieces) if rows.total else pieces
        client = ClientConnection(request.environ, context().settings.export_patience)
        body = _send(client, rows.encode(pieces), {"file": name, "rows": rows.total})
        response = Response(body, mimetype=media_type)
        response.call_on_close(resources.pop_all().close)
    response.headers[ROW_COUNT] = str(rows.total)
    response.headers.update(rows.headers)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@contextmanager
def _slot() -> Iterator[None]:
    slots = context().export_slots
    if not slots.acquire(blocking=False):
        raise Problem(
            Code.TOO_MANY_EXPORTS,
            f"This process already runs the maximum of {context().settings.exports_at_once} exports.",
            headers={"Retry-After": str(RETRY_AFTER)},
        )
    try:
        yield
    finally:
        slots.release()


def _pieces(connection: Connection, rows: FileRows) -> Pieces:
    """Yield the lines of each FETCH. Raise RuntimeError at the end if any lines are missing."""
    missing = rows.total
    result = connection.execution_options(yield_per=FETCH_ROWS).scalars(rows.lines, dict(rows.parameters))
    for piece in result.partitions():
        missing -= len(piece)
        yield piece
    if missing:
        raise RuntimeError(f"an export of {rows.total} rows ended with {missing} rows missing")


def _send(client: ClientConnection, body: Iterator[bytes], fields: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the body and log the result. Reset the connection on failure: a partial file must not look complete."""
    started, reason = time.monotonic(), "the client disconnected or was too slow"
    with client:
        try:
            yield from body
            client.mark_complete()
            reason = ""
        except Exception as error:  # too late for an error response: the status is already sent
            if isinstance(error, SQLAlchemyError | psycopg2.Error):
                reason = describe(error)
            else:
                reason = f"a bug raised {type(error).__name__}"
                log.error("exception_unhandled", exc_info=error)
            raise ConnectionResetError(errno.ECONNRESET, reason) from None
        finally:
            seconds = round(time.monotonic() - started, 3)
            if reason:
                log.warning("export_aborted", reason=reason, duration_seconds=seconds, **fields)
            else:
                log.info("export_sent", duration_seconds=seconds, **fields)


def csv_file(header: Sequence[str], pieces: Pieces) -> Iterator[bytes]:
    """Yield the bytes of a CSV file."""
    yield joined([",".join(header)])
    yield from map(joined, pieces)


def joined(piece: Sequence[str]) -> bytes:
    """Return the lines as bytes, each followed by a line break."""
    return ("\n".join(piece) + "\n").encode()


def csv_text(value: Any) -> ColumnElement[str]:
    """Return the SQL of a quoted CSV cell, which can contain commas, quotation marks and line breaks."""
    return func.concat('"', func.replace(value, '"', '""'), '"')
