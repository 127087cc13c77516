"""The one Postgres that all contenders load into and read from, as devstack sets it up: durable, all else default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from tests.bench.database import Database
from tests.bench.service import Service
from tests.servers import TEMPLATE, MigratedPostgres


class Servers:
    """The databases of the benchmarks. folder: for data and logs; templates: what a database can be a copy of."""

    def __init__(self, folder: Path, postgres: MigratedPostgres):
        self.folder, self._postgres = folder, postgres
        self.templates = {TEMPLATE}

    @property
    def version(self) -> str:
        [(version,)] = self._postgres.run_sql("SHOW server_version")
        return str(version)

    @contextmanager
    def database(self, name: str, template: str = TEMPLATE) -> Iterator[Database]:
        """A database like another one: as the migrations make it where none is named."""
        url = self._postgres.create_database(name, template, "STRATEGY file_copy")
        try:
            with closing(Database(url)) as database:
                yield database
        finally:
            self._postgres.drop_database(name)

    @contextmanager
    def filling(self, name: str) -> Iterator[Database]:
        """A database to be filled, for others to be made like it. It stays."""
        with closing(Database(self._postgres.create_database(name))) as database:
            yield database
        self.templates.add(name)

    @contextmanager
    def service(self, name: str, template: str = TEMPLATE, web_workers: int = 2) -> Iterator[Service]:
        """Kasparro on a database of its own, which is like another one."""
        folder = Path(mkdtemp(prefix=f"{name}-", dir=self.folder))
        with self.database(name, template) as database, Service(folder, database, web_workers) as service:
            yield service
