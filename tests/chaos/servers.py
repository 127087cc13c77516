"""What all faults stand on: a Postgres, a Valkey, upstreams that never change, files, and the API."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg2
import requests
from sqlalchemy import make_url

from devstack.environment import RECORDED_PATHS
from devstack.postgres import Postgres
from devstack.valkey import Valkey
from tests.processes import ROOT, Process, until
from tests.short_times import SHORT_TIMES, forget_the_callers_settings

TEMPLATE, DATABASE = "migrated", "kasparro"
TOKEN = "a-token-of-the-fault-suite-0123456789"


class Servers:
    """Started once for all faults. fresh() gives each fault an empty database and an empty Redis at the same URLs.

    seed: which walk the upstreams' frozen prices take.
    """

    def __init__(self, folder: Path, seed: int, rounds: int = 1):
        self.folder, self.seed, self.rounds = folder, seed, rounds
        self.postgres, self.valkey = Postgres(folder / "servers"), Valkey(folder / "servers")
        self.csv = folder / "csv"
        self.web: Web | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            forget_the_callers_settings()
            self._stack.callback(self.postgres.erase)
            self._stack.enter_context(self.postgres)
            self._stack.enter_context(self.valkey)
            migrate(self.postgres.url)
            run_sql(self.postgres.url, f"ALTER DATABASE {DATABASE} RENAME TO {TEMPLATE}", database="postgres")
            self._stack.callback(self._close_web)
            self.replay = self._stack.enter_context(Replay(self.folder, self.seed))
            shutil.copytree(ROOT / "sample_data/csv", self.csv)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def environ(self) -> dict[str, str]:
        """What every process of the service sees."""
        upstreams = {f"{source}_URL": self.replay.url + path for source, path in RECORDED_PATHS.items()}
        # The limits of the free plans are no part of a fault: a kill must not be followed by a wait for the limiter.
        rates = {f"{source}_CALLS_PER_{span}": "1000000" for source in RECORDED_PATHS for span in ("MINUTE", "MONTH")}
        return {
            **SHORT_TIMES,
            **upstreams,
            **rates,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "CSV_DIR": str(self.csv),
            # So small that a run of the files has some sixty pages.
            "CSV_BLOCK_BYTES": "8192",
            # What is hurt is to be the one process that works on a run; with others beside it: faults_assistants.py.
            "RUN_WORKERS": "1",
            "API_TOKEN": TOKEN,
        }

    def fresh(self) -> None:
        """Nothing is left of the fault before: not a row, not a message, not a setting that it changed."""
        self.postgres.start()
        for statement in (
            "ALTER SYSTEM RESET ALL",
            # A fault's server may lose its data in a power cut, as long as it is quick: kill -9 is none.
            "ALTER SYSTEM SET fsync = off",
            "SELECT pg_reload_conf()",
            f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)",
            f"CREATE DATABASE {DATABASE} TEMPLATE {TEMPLATE}",
        ):
            run_sql(self.postgres.url, statement, database="postgres")
        self.valkey.stop()
        shutil.rmtree(self.valkey.data, ignore_errors=True)
        self.valkey.start()

    def api(self) -> Web:
        """The API in front of these servers; one for all faults, since it holds nothing."""
        if self.web is None:
            self.web = Web(self.folder / "web.log", self.environ)
        return self.web

    def _close_web(self) -> None:
        if self.web is not None:
            self.web.process.kill()


class Web:
    """The API's process, and where it answers."""

    def __init__(self, log: Path, environ: Mapping[str, str]):
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.process = Process("web", log, {**environ, "WEB_PORT": str(port), "WEB_WORKERS": "1"})

    def wait(self) -> None:
        until(lambda: answers(f"{self.url}/health/live"), within=30, what=f"the API answers; see {self.process.log}")


class Replay:
    """The replay server with its time frozen: every answer stays as it is."""

    def __init__(self, folder: Path, seed: int, rounds: int = 1):
        self._log, self._seed = folder / "replay.log", seed

    def __enter__(self) -> Self:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable,
            "-m",
            "devstack.recorded_upstreams",
            "--freeze",
            "--port",
            str(port),
            "--seed",
            str(self._seed),
        ]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
        try:
            until(lambda: answers(f"{self.url}/healthz"), within=30, what=f"the replay server answers; see {self._log}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def migrate(database_url: str) -> None:
    """Make the tables of an empty database."""
    environ = {**os.environ, **SHORT_TIMES, "DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT, check=True, env=environ)


def run_sql(url: str, statement: str, *, database: str | None = None) -> None:
    """Outside of any transaction, on a connection of its own; in another database where one is named."""
    named = make_url(url).set(drivername="postgresql")
    connection = psycopg2.connect((named.set(database=database) if database else named).render_as_string(False))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False
