"""Run the migrations on the database at DATABASE_URL, while workers load pages. Concurrent migrators take turns."""

import random
import time

from alembic import context
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import OperationalError

from settings import SettingsError, get_settings
from store.engine import UnsuitablePostgres, check_postgres, make_engine
from store.errors import DatabaseError, classify
from store.locks import Lock, take_lock
from store.tables import Base

PAGE_LOCK_ORDER = (
    "checkpoints",
    "runs",
    "raw_bodies",
    "quotes",
    "latest_quotes",
    "rejects",
    "drift",
    "shapes",
    "validators",
    "pages",
)
"""The tables in the order in which tasks/pipeline/load.py writes to them."""

LOCK_TIMEOUT = 2.0
"""Seconds to wait for the lock of a table. Pages that need the table wait just as long, behind the migration."""

LOCK_DEADLINE = 240.0
"""Seconds after which a migration that got no locks fails."""


def migrate() -> None:
    engine = make_engine(get_settings().database_url, role="migrate")
    check_postgres(engine)
    deadline = time.monotonic() + LOCK_DEADLINE
    while not _try_migrations(engine, deadline):
        # Wait for a random time, so that the next attempt does not meet the same migrator or page again.
        time.sleep(random.uniform(0.1, 1.0))
    engine.dispose()


def _try_migrations(engine: Engine, deadline: float) -> bool:
    """Run all migrations in one transaction. Return False after a deadlock, or if a page held a lock for too long."""
    try:
        with engine.connect() as connection:
            context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
            with context.begin_transaction():
                take_lock(connection, Lock.MIGRATION)
                connection.execute(text(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT * 1000)}"))
                if context.get_context().get_current_revision() != context.get_head_revision():
                    _lock_tables(connection)
                context.run_migrations()
    except OperationalError as error:
        if classify(error) is DatabaseError.CONFLICT and time.monotonic() < deadline:
            return False
        raise
    return True


def _lock_tables(connection: Connection) -> None:
    """Lock all tables at once, in the order in which a page locks them. Any other order could cause a deadlock."""
    existing = set(inspect(connection).get_table_names())
    others = sorted(existing - set(PAGE_LOCK_ORDER))
    for table in [*(name for name in PAGE_LOCK_ORDER if name in existing), *others]:
        connection.execute(text(f'LOCK TABLE "{table}" IN ACCESS EXCLUSIVE MODE'))


try:
    migrate()
except (SettingsError, UnsuitablePostgres) as error:
    raise SystemExit(str(error)) from None
except OperationalError as error:
    raise SystemExit(f"DATABASE_URL: {error.orig}") from None
