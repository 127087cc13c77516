"""Test that the constraints and indexes of the declared tables exist and are enforced."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from store.tables import SYMBOL_KEY, UNFINISHED, Base


def test_every_constraint_and_index_of_the_models_is_in_the_database(engine: Engine) -> None:
    """Compare by name, since Alembic compares neither check constraints nor partial indexes."""
    declared = {
        constraint.name
        for table in Base.metadata.tables.values()
        for constraint in (*table.constraints, *table.indexes)
        if constraint.name
    }
    query = text("SELECT conname FROM pg_constraint UNION SELECT indexname FROM pg_indexes")
    with engine.connect() as connection:
        existing = set(connection.scalars(query))
    assert declared - existing == set()


@pytest.mark.parametrize(
    ("symbol", "key"),
    [("BTC", "btc"), ("$Pepe", "pepe"), ("USD.e", "usde"), ("a_b-c", "abc"), ("ABCDEFGHIJKLMN", "abcdefghij")],
)
def test_the_symbol_key_ignores_case_and_punctuation_and_has_ten_characters(
    engine: Engine, symbol: str, key: str
) -> None:
    query = text(f"SELECT {SYMBOL_KEY} FROM (SELECT CAST(:symbol AS text) AS symbol) AS listing")
    with engine.connect() as connection:
        assert connection.execute(query, {"symbol": symbol}).scalar_one() == key


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
