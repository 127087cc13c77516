"""Run the migrations on the database at DATABASE_URL; concurrent migrators run one after another."""

from alembic import context
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from settings import SettingsError, get_settings
from store.engine import UnsuitablePostgres, check_postgres, make_engine
from store.tables import Base

MIGRATION_LOCK = 7_274_651  # An arbitrary number, the same for all migrators.


def migrate() -> None:
    engine = make_engine(get_settings().database_url, role="migrate")
    check_postgres(engine)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            context.run_migrations()
    engine.dispose()


try:
    migrate()
except (SettingsError, UnsuitablePostgres) as error:
    raise SystemExit(str(error)) from None
except OperationalError as error:
    raise SystemExit(f"DATABASE_URL: {error.orig}") from None
