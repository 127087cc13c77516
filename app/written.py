"""SQL that is written once for each shape of a request: writing it takes longer than Postgres takes to answer it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult
from sqlalchemy.dialects.postgresql.psycopg2 import dialect
from sqlalchemy.sql.elements import ClauseElement

DIALECT = dialect()  # type: ignore[no-untyped-call]

SHAPES = 256
"""So many shapes are remembered of each kind of request. All there is with `fields` would be without number."""


class Written:
    """A statement's text. What differs from request to request are its bound parameters, by name."""

    def __init__(self, statement: ClauseElement, prefix: str = ""):
        compiled = statement.compile(dialect=DIALECT)
        self._text, self._constants = prefix + compiled.string, dict(compiled.params)

    def on(self, connection: Connection, parameters: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it. parameters: as psycopg2 takes them; more than it has do no harm."""
        return connection.exec_driver_sql(self._text, {**self._constants, **parameters})
