"""Start the Postgres of tests, benchmarks and the fault-injection suite, with the service's tables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg2

from devstack.postgres import DATABASE, Postgres
from tests.processes import ROOT
from tests.short_times import SHORT_TIMES

TEMPLATE = "migrated"

MEMORY = Path("/dev/shm")  # nosec B108
MIN_MEMORY = 2 * 1024**3


class MigratedPostgres(Postgres):
    """A Postgres whose database TEMPLATE has the service's tables and no rows.

    As a context manager, it deletes its data at the end.
    """

    def __enter__(self) -> Self:
        try:
            migrate(self.start())
            self.run_sql(f"ALTER DATABASE {DATABASE} RENAME TO {TEMPLATE}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.erase()

    def create_database(self, name: str, template: str = TEMPLATE, options: str = "") -> str:
        """Copy a database. Return the URL of the copy."""
        self.run_sql(f"CREATE DATABASE {name} TEMPLATE {template} {options}")
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and disconnect its clients."""
        self.run_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def database_url(self, name: str) -> str:
        return self.url.rpartition("/")[0] + f"/{name}"

    def run_sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement outside any transaction, on a new connection. Return its rows."""
        with closing(psycopg2.connect(self.database_url(database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []


def memory_folder() -> Path | None:
    """Return a folder in memory for servers, where a commit waits for no disk. Return None if it is too small.

    The servers keep fsync on, as in production, since `/health` reports a server without it.
    """
    is_large = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MIN_MEMORY
    return MEMORY if is_large else None


def migrate(database_url: str) -> None:
    """Create the service's tables in an empty database."""
    alembic(database_url, "upgrade", "head")


def alembic(database_url: str, *command: str, log: Path | None = None) -> None:
    """Run an Alembic command on a database, such as `downgrade 0012`. log: a file for its output."""
    environ = {**os.environ, **SHORT_TIMES, "DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    with log.open("ab") if log else nullcontext() as output:
        subprocess.run(
            [sys.executable, "-m", "alembic", *command],
            cwd=ROOT,
            check=True,
            env=environ,
            stdout=output,
            stderr=output,
        )
