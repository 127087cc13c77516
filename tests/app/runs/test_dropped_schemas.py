"""Test that dropped values are summed by source, field and code, each with an example from one item."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from app.runs.dropped_schemas import count_dropped_values, dropped_field
from store.tables import PageRow
from tests.app.rows import NOON, Rows


def kind(field: str, code: str, count: int, example: str = "a") -> dict[str, Any]:
    return {"field": field, "code": code, "count": count, "detail": f"detail {example}", "item": f"item {example}"}


def test_dropped_values_of_several_pages_are_summed(rows: Rows) -> None:
    run, other = rows.run(), rows.run("coinpaprika")
    rows.page(run, 0, recorded={"dropped": [kind("rank", "not_a_rank", 2, "b"), kind("high", "negative", 1)]})
    rows.page(
        run, 1, recorded={"dropped": [kind("rank", "not_a_rank", 3, "a")]}, committed_at=NOON + timedelta(hours=1)
    )
    rows.page(run, 2)
    rows.page(other, 0, source="coinpaprika", recorded={"dropped": [kind("rank", "not_a_rank", 4)]})
    with rows.engine.connect() as connection:
        counts = count_dropped_values(connection)
        assert [(row.source, row.field, row.code, row["count"]) for row in counts] == [
            ("coingecko", "rank", "not_a_rank", 5),
            ("coinpaprika", "rank", "not_a_rank", 4),
            ("coingecko", "high", "negative", 1),
        ]
        first = counts[0]
        assert (first["first_dropped_at"], first["last_dropped_at"]) == (NOON, NOON + timedelta(hours=1))
        assert (first["detail"], first["item"]) == ("detail a", "item a")
        assert len(count_dropped_values(connection, PageRow.run == run)) == 2
        assert [row["count"] for row in count_dropped_values(connection, dropped_field == "high")] == [1]
        assert len(count_dropped_values(connection, limit=1)) == 1
