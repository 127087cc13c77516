"""Set a database back: fail over to a standby that lacks every commit after a chosen position of the WAL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg2

from devstack.postgres import Postgres
from tests.proxy import Proxy
from tests.servers import migrate

SETTINGS = {
    "wal_keep_size": "1GB",
    # No checkpoint may recycle WAL that a standby still needs.
    "checkpoint_timeout": "1h",
}


class CopiedPostgres(Postgres):
    """A copy of a stopped server, with its password and its data.

    settings: added to the copy's configuration.
    recovers: start as a standby that follows these settings, and is promoted at their recovery target.
    """

    def __init__(self, folder: Path, original: Postgres, settings: Mapping[str, str], *, recovers: bool = False):
        super().__init__(folder)
        self.state.write("postgres_password", original.state.secret("postgres_password"))
        self._original, self._settings, self._recovers = original, settings, recovers

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.erase()

    def _create(self) -> None:
        shutil.copytree(self._original.data, self.data)
        with (self.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())
        if self._recovers:
            (self.data / "recovery.signal").touch()
        for path in (self.data, *self.data.rglob("*")):
            os.chown(path, self.account.uid, self.account.gid)


class MigratedCluster(Postgres):
    """A stopped server whose database has the service's tables and no rows. Copies of it share its past."""

    def __enter__(self) -> Self:
        migrate(self.start())
        self.stop()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.erase()


class Failover:
    """A primary, and a standby that takes over. Clients reach the current one at `url`.

    As a context manager, it starts the primary. Enter it and fail over in the thread that uses it.
    """

    def __init__(self, folder: Path, cluster: MigratedCluster):
        self._folder, self._cluster, self._stack = folder, cluster, ExitStack()
        self.primary = CopiedPostgres(folder / "primary", cluster, SETTINGS)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.primary)
            self._proxy = stack.enter_context(Proxy(self.primary.url))
            self.url = self._proxy.url
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def position(self) -> str:
        """Return the end of the primary's WAL. A failover to it keeps the commits so far, and loses all later ones."""
        return str(self._query("SELECT pg_current_wal_insert_lsn()"))

    def position_between(self, start: str, part: float) -> str:
        """Return a position between `start` (part 0) and the end of the WAL (part 1)."""
        end, size = self.position(), "(%s::pg_lsn - %s::pg_lsn)"
        return str(self._query(f"SELECT %s::pg_lsn + floor({size} * %s)", start, end, start, part))

    def fail_over(self, position: str) -> None:
        """Kill the primary, and promote a standby that received the WAL up to this position. Clients lose connections.

        The standby stops before the first record at the position or after it.
        """
        # Recovery fails if it finds no record after its target.
        self._query("SELECT pg_logical_emit_message(false, 'end', ''), pg_switch_wal()")
        self.primary.kill()
        target = {
            "restore_command": f'cp "{self.primary.data}/pg_wal/%f" "%p"',
            "recovery_target_lsn": position,
            "recovery_target_inclusive": "off",
            "recovery_target_action": "promote",
            "hot_standby": "off",  # It accepts connections only after its promotion.
        }
        standby = CopiedPostgres(self._folder / "standby", self._cluster, SETTINGS | target, recovers=True)
        self._stack.enter_context(standby)
        self._proxy.switch(standby.url)

    def _query(self, statement: str, *values: Any) -> Any:
        with closing(psycopg2.connect(self.primary.url)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            row = cursor.fetchone()
        return row[0] if row else None
