"""How many rows there are, without counting many of them: what the planner believes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.elements import ClauseElement


class _Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: Select[Any]):
        self.statement = statement


@compiles(_Explain)
def _compile(explain: _Explain, compiler: Any, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(explain.statement, **options)}"


FEW = 10_000
"""Up to so many rows are counted: the planner is furthest off where a table is new and small."""


def about_how_many(connection: Connection, statement: Select[Any]) -> tuple[int, bool]:
    """How many rows a query has, and whether that is an estimate.

    The planner's guess takes 0.04 ms, where counting ten million rows takes a second.
    """
    plan = connection.execute(_Explain(statement)).scalar_one()
    expected = int(plan[0]["Plan"]["Plan Rows"])
    if expected > FEW:
        return expected, True
    counted = connection.execute(select(func.count()).select_from(statement.limit(FEW + 1).subquery())).scalar_one()
    return (counted, False) if counted <= FEW else (max(counted, expected), True)
