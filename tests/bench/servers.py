"""Provide databases on the Postgres that all contenders share: durable, with default settings otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from tests.bench.database import Database
from tests.bench.service import Service
from tests.servers import TEMPLATE, MigratedPostgres


class Servers:
    """The databases of the benchmarks. folder: holds data and logs. templates: the databases that can be copied."""

    def __init__(self, folder: Path, postgres: MigratedPostgres):
        self.folder, self._postgres = folder, postgres
        self.templates = {TEMPLATE}

    @property
    def version(self) -> str:
        [(version,)] = self._postgres.run_sql("SHOW server_version")
        return str(version)

    @contextmanager
    def database(self, name: str, template: str = TEMPLATE) -> Iterator[Database]:
        """Yield a copy of a template, and drop it at the end. The default template is a migrated database."""
        url = self._postgres.create_database(name, template, "STRATEGY file_copy")
        try:
            with closing(Database(url)) as database:
                yield database
        finally:
            self._postgres.drop_database(name)

    @contextmanager
    def new_template(self, name: str) -> Iterator[Database]:
        """Yield a new database to fill, and register it as a template."""
        with closing(Database(self._postgres.create_database(name))) as database:
            yield database
        self.templates.add(name)

    @contextmanager
    def service(self, name: str, template: str = TEMPLATE, web_workers: int = 2) -> Iterator[Service]:
        """Yield Kasparro on a copy of a template."""
        folder = Path(mkdtemp(prefix=f"{name}-", dir=self.folder))
        with self.database(name, template) as database, Service(folder, database, web_workers) as service:
            yield service
