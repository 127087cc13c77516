"""How many rows there are, without counting many of them: what the planner believes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, func, select

from app.written import Written

FEW = 10_000
"""Up to so many rows are counted: the planner is furthest off where a table is new and small."""


class Estimate:
    """How many rows a query has, as far as that is quickly said."""

    def __init__(self, statement: Select[Any]):
        self._plan = Written(statement, prefix="EXPLAIN (FORMAT JSON) ")
        self._count = Written(select(func.count()).select_from(statement.limit(FEW + 1).subquery()))

    def about_how_many(self, connection: Connection, parameters: Mapping[str, Any]) -> tuple[int, bool]:
        """How many, and whether that is an estimate.

        The planner's guess takes 0.04 ms, where counting ten million rows takes a second.
        """
        plan = self._plan.on(connection, parameters).scalar_one()
        expected = int(plan[0]["Plan"]["Plan Rows"])
        if expected > FEW:
            return expected, True
        counted = self._count.on(connection, parameters).scalar_one()
        return (counted, False) if counted <= FEW else (max(counted, expected), True)
