"""SQL that is written once for each shape of a request, and read once by each session of Postgres.

For a page of rows, writing it takes longer than Postgres takes to answer, and so does reading it there. Without
parameters it is planned once as well, which is a third of what Postgres does for a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, cast

import psycopg2.extensions
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.psycopg2 import dialect
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import NullType, TypeEngine

DIALECT = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy declares no types for it

MAX_PREPARED = 256
"""So many shapes are remembered of each kind of request. All there is with `fields` would be without number."""

PARAMETER = re.compile(r"%\((\w+)\)s")
PREPARED = "prepared"


class PreparedStatement:
    """A statement's text. What differs from request to request are its parameters: the bindparams without a value.

    one_plan: it is planned once for whatever parameters, where sessions plan for each (store/engine.py).
    """

    def __init__(self, statement: ClauseElement, *, one_plan: bool = False):
        compiled: Any = statement.compile(dialect=DIALECT)  # DDL has no bindparams; a statement's compiler has
        names = [name for name in dict.fromkeys(PARAMETER.findall(compiled.string)) if compiled.params[name] is None]

        def spelled(found: re.Match[str]) -> str:
            name = found[1]
            if name in names:
                return f"${names.index(name) + 1}"
            literal: str = compiled.render_literal_value(compiled.params[name], compiled.binds[name].type)
            return literal

        text = PARAMETER.sub(spelled, compiled.string).replace("%%", "%")
        types = ", ".join(_type_of(compiled.binds[name].type) for name in names)
        # The same text has the same name, also where it was forgotten meanwhile.
        self._name = f"kasparro_{sha256(text.encode()).hexdigest()[:32]}"
        self._prepare = f"PREPARE {self._name}{f' ({types})' if types else ''} AS {text}"
        given = ", ".join(f"%({name})s" for name in names)
        # Of two statements that are sent as one, what is set by the first holds for the second, and no longer.
        mode = "SET LOCAL plan_cache_mode = force_generic_plan; " if one_plan else ""
        self._execute = f"{mode}EXECUTE {self._name}{f' ({given})' if given else ''}"

    def row(self, connection: Connection, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        """Its one row. parameters: as psycopg2 takes them; more than it has do no harm.

        Raises psycopg2's own errors: to set up SQLAlchemy's result takes a fifth of all that Python does for a page.
        """
        prepared: set[str] = connection.info.setdefault(PREPARED, set())
        if self._name not in prepared:
            if len(prepared) >= MAX_PREPARED:
                connection.exec_driver_sql("DEALLOCATE ALL")
                prepared.clear()
            connection.exec_driver_sql(self._prepare)
            prepared.add(self._name)
        driver = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
        try:
            with driver.cursor() as cursor:
                cursor.execute(self._execute, parameters)
                [row] = cursor.fetchall()
        except psycopg2.Error as error:
            if driver.closed:
                connection.invalidate(error)
            raise
        return row

    def value(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """The one value of its one row."""
        [value] = self.row(connection, parameters)
        return value


def _type_of(type_: TypeEngine[Any]) -> str:
    return "unknown" if isinstance(type_, NullType) else type_.compile(DIALECT)  # left to Postgres to find out
