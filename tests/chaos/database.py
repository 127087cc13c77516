"""Query the database of a fault with SQL."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, text
from sqlalchemy.exc import SQLAlchemyError

from store.engine import make_engine
from store.schema import read_revision
from store.tables import Base

UNFINISHED = "('queued', 'running', 'waiting')"


class Database:
    """The database of one fault. engine: connects to it. Each statement is its own transaction."""

    engine: Engine

    def connect(self, url: str) -> None:
        """Use the database at this URL."""
        self.engine = make_engine(url, "chaos", isolation_level="AUTOCOMMIT", pool_size=5)

    def rows(self, query: str, **values: Any) -> list[RowMapping]:
        with self.engine.connect() as connection:
            result = connection.execute(text(query), values)
            return list(result.mappings()) if result.returns_rows else []

    def scalar(self, query: str, **values: Any) -> Any:
        """Return the only value of the only row of a query."""
        [row] = self.rows(query, **values)
        [value] = row.values()
        return value

    def run(self, run: uuid.UUID) -> RowMapping:
        return self.rows("SELECT * FROM runs WHERE id = :run", run=run)[0]

    def unfinished(self) -> list[RowMapping]:
        return self.rows(f"SELECT * FROM runs WHERE status IN {UNFINISHED}")

    def revision(self) -> str | None:
        """Return the revision of the schema."""
        with self.engine.connect() as connection:
            return read_revision(connection)

    def now(self) -> datetime | None:
        """Return the time of the service, or None while the database does not respond."""
        try:
            now: datetime = self.scalar("SELECT service_time()")
        except SQLAlchemyError:
            return None
        return now

    def all_finished(self) -> bool:
        """Return whether the database responds and every run has finished."""
        try:
            return not self.unfinished()
        except SQLAlchemyError:  # The database is down.
            return False

    def clear(self) -> None:
        """Delete all rows and disconnect all clients. This is faster than creating another database."""
        self.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        self.rows(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")
