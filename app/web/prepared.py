"""Build the SQL of each query shape once in a process, and prepare it once in each database session.

For one page of rows, building the SQL takes longer than executing it in Postgres. Parsing the SQL also takes longer. A
statement without parameters is also planned only once, which saves a third of Postgres's work for a page.
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
"""Maximum number of cached query shapes for each kind of request. `fields` alone allows too many to cache all."""

PARAMETER = re.compile(r"%\((\w+)\)s")
PREPARED = "prepared"


class PreparedStatement:
    """A prepared statement. Bindparams without a value are its parameters; other values are literals in its text.

    one_plan: plan the statement once for all parameters. Otherwise it is planned for each execution (store/engine.py).
    """

    def __init__(self, statement: ClauseElement, *, one_plan: bool = False):
        compiled: Any = statement.compile(dialect=DIALECT)  # Any: the declared type covers DDL, which has no bindparams
        names = [name for name in dict.fromkeys(PARAMETER.findall(compiled.string)) if compiled.params[name] is None]

        def replacement(match: re.Match[str]) -> str:
            name = match[1]
            if name in names:
                return f"${names.index(name) + 1}"
            literal: str = compiled.render_literal_value(compiled.params[name], compiled.binds[name].type)
            return literal

        text = PARAMETER.sub(replacement, compiled.string).replace("%%", "%")
        types = ", ".join(_type_of(compiled.binds[name].type) for name in names)
        # The same text always has the same name, even if its shape was evicted and built again.
        self._name = f"kasparro_{sha256(text.encode()).hexdigest()[:32]}"
        self._prepare = f"PREPARE {self._name}{f' ({types})' if types else ''} AS {text}"
        arguments = ", ".join(f"%({name})s" for name in names)
        # Two statements in one message are one transaction, so the setting ends with the second statement.
        mode = "SET LOCAL plan_cache_mode = force_generic_plan; " if one_plan else ""
        self._execute = f"{mode}EXECUTE {self._name}{f' ({arguments})' if arguments else ''}"

    def row(self, connection: Connection, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        """Execute the statement and return its only row. parameters: values by name; extra values are ignored.

        Raise the errors of psycopg2, which is called directly: SQLAlchemy's result would take a fifth of the Python
        time of a page.
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
        """Execute the statement and return the only value of its only row."""
        [value] = self.row(connection, parameters)
        return value


def _type_of(type_: TypeEngine[Any]) -> str:
    # Postgres infers the type of an `unknown` parameter.
    return "unknown" if isinstance(type_, NullType) else type_.compile(DIALECT)
