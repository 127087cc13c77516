"""Test that the constraints and indexes of the declared tables exist in the database."""

from __future__ import annotations

from sqlalchemy import Engine, text

from store.tables import Base


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
