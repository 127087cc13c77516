"""Test the constraints on runs."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from store.tables import UNFINISHED


@pytest.mark.parametrize("kind", ["live", "replay"])
def test_a_source_has_at_most_one_unfinished_run_of_each_kind(engine: Engine, kind: str) -> None:
    insert = text("""
        INSERT INTO runs (id, source, kind, status, requested_by)
        VALUES (gen_random_uuid(), 'a_source', :kind, :status, 'test') ON CONFLICT DO NOTHING
    """)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO sources (name) VALUES ('a_source')"))
        for status in (*UNFINISHED, "succeeded", "succeeded"):
            connection.execute(insert, {"kind": kind, "status": status})
        statuses = connection.scalars(text("SELECT status FROM runs ORDER BY status")).all()
    assert statuses == ["queued", "succeeded", "succeeded"]
