"""SQL that is written once for each shape of a request, and read once by each session of Postgres.

For a page of rows, writing it takes longer than Postgres takes to answer, and so does reading it there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, CursorResult
from sqlalchemy.dialects.postgresql.psycopg2 import dialect
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import NullType, TypeEngine

DIALECT = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy declares no types for it

SHAPES = 256
"""So many shapes are remembered of each kind of request. All there is with `fields` would be without number."""

PARAMETER = re.compile(r"%\((\w+)\)s")
PREPARED = "prepared"


class Written:
    """A statement's text. What differs from request to request are its bound parameters, by name."""

    def __init__(self, statement: ClauseElement, prefix: str = ""):
        compiled = statement.compile(dialect=DIALECT)
        self._constants = dict(compiled.params)
        names = list(dict.fromkeys(PARAMETER.findall(compiled.string)))
        numbered = PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", compiled.string).replace("%%", "%")
        binds = compiled.binds  # type: ignore[attr-defined]  # of a compiled statement; DDL has none
        types = ", ".join(_type_of(binds[name].type) for name in names)
        # The same text has the same name, also where it was forgotten meanwhile.
        self._name = f"kasparro_{sha256(numbered.encode()).hexdigest()[:32]}"
        self._prepare = f"PREPARE {self._name}{f' ({types})' if types else ''} AS {numbered}"
        given = ", ".join(f"%({name})s" for name in names)
        self._execute = f"{prefix}EXECUTE {self._name}{f' ({given})' if given else ''}"

    def on(self, connection: Connection, parameters: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it. parameters: as psycopg2 takes them; more than it has do no harm."""
        prepared: set[str] = connection.info.setdefault(PREPARED, set())
        if self._name not in prepared:
            if len(prepared) >= SHAPES:
                connection.exec_driver_sql("DEALLOCATE ALL")
                prepared.clear()
            connection.exec_driver_sql(self._prepare)
            prepared.add(self._name)
        return connection.exec_driver_sql(self._execute, {**self._constants, **parameters})


def _type_of(type_: TypeEngine[Any]) -> str:
    return "unknown" if isinstance(type_, NullType) else type_.compile(DIALECT)  # left to Postgres to find out
