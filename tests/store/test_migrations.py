"""Test that the migrations build the database that the models declare."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from settings import Settings
from store.engine import make_engine
from store.tables import Base


def test_migrating_an_empty_database_creates_the_declared_tables(settings: Settings) -> None:
    # Set no timeouts, since the comparison takes seconds on a busy machine.
    engine = make_engine(settings.database_url, "test")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()
