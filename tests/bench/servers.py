"""The one Postgres that all contenders load into and read from, as devstack sets it up: durable, all else default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

from devstack.postgres import DATABASE, Postgres
from tests.bench.database import Database
from tests.bench.service import Service
from tests.chaos.servers import migrate, run_sql

EMPTY = "migrated"


class Servers:
    """A context manager that leaves neither a process nor data behind. folder: for their data and logs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.templates = {EMPTY}
        self._postgres = Postgres(folder / "servers")

    def __enter__(self) -> Self:
        try:
            self._postgres.start()
            migrate(self._postgres.url)
            self._run(f"ALTER DATABASE {DATABASE} RENAME TO {EMPTY}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._postgres.stop()
        self._postgres.erase()

    @property
    def version(self) -> str:
        with closing(Database(self._url("postgres"))) as database:
            return str(database.value("SHOW server_version"))

    @contextmanager
    def database(self, name: str, template: str = EMPTY) -> Iterator[Database]:
        """A database like another one: as the migrations make it where none is named."""
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            with closing(Database(self._url(name))) as database:
                yield database
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def filling(self, name: str) -> Iterator[Database]:
        """A database to be filled, for others to be made like it. It stays."""
        self._run(f"CREATE DATABASE {name} TEMPLATE {EMPTY}")
        with closing(Database(self._url(name))) as database:
            yield database
        self.templates.add(name)

    @contextmanager
    def service(self, name: str, template: str = EMPTY, web_workers: int = 2) -> Iterator[Service]:
        """Kasparro on a database of its own, which is like another one."""
        folder = Path(mkdtemp(prefix=f"{name}-", dir=self.folder))
        with self.database(name, template) as database, Service(folder, database, web_workers) as service:
            yield service

    def _url(self, database: str) -> str:
        return self._postgres.url.rpartition("/")[0] + f"/{database}"

    def _run(self, statement: str) -> None:
        run_sql(self._postgres.url, statement, database="postgres")
