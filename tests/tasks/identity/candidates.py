"""Read the candidates that the rematch stored."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from tests.tasks.assets import query


def candidates(engine: Engine) -> list[tuple[str, str, Any, Any]]:
    """Return both slugs, the kind of similarity and the relative price difference of each candidate, sorted."""
    rows = query(
        engine,
        """
        SELECT one.slug AS one, other.slug AS other, evidence ->> 'alike' AS alike,
               (evidence ->> 'prices_apart')::numeric AS prices_apart
          FROM candidates JOIN assets AS one ON one.id = one JOIN assets AS other ON other.id = other ORDER BY 1, 2
        """,
    )
    return [tuple(row) for row in rows]
