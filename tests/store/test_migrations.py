"""The migrations and the models build the same database."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text

from store.tables import Base


def test_migrating_an_empty_database_gives_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_check_and_partial_index_of_the_models_is_in_the_database(engine: Engine) -> None:
    """Alembic's comparison looks at neither."""
    named = {
        constraint.name
        for table in Base.metadata.tables.values()
        for constraint in (*table.constraints, *table.indexes)
        if constraint.name
    }
    with engine.connect() as connection:
        there = set(
            connection.scalars(text("SELECT conname FROM pg_constraint UNION SELECT indexname FROM pg_indexes"))
        )
    assert named - there == set()
