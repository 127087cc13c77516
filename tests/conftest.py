"""Start real servers for the tests: one Postgres and one Valkey for each process, one database for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from devstack.postgres import DATABASE
from devstack.valkey import Valkey
from settings import Settings, read_settings
from store.engine import make_engine
from store.tables import Base
from tests.processes import Process, Processes
from tests.recordings import REAL, SYNTHETIC, Recordings
from tests.servers import TEMPLATE, MigratedPostgres, memory_folder
from tests.short_times import SHORT_TIMES, remove_caller_settings
from tests.stepped_clock import SteppedPostgres, stepped_postgres

# A copied database has the same object ids as its template, and the same revision.
SCHEMA = """
    SELECT oid::text FROM pg_class UNION ALL SELECT oid::text FROM pg_constraint
    UNION ALL SELECT version_num FROM alembic_version ORDER BY 1
"""
NO_REVISION = "SELECT to_regclass('alembic_version') IS NULL"

_servers = ExitStack()
_empty: list[str] = []


def _start_servers() -> MigratedPostgres:
    """Start the servers, and replace the caller's settings with those of the tests."""
    remove_caller_settings()
    folder = Path(tempfile.mkdtemp(prefix="kasparro-tests-", dir=memory_folder()))
    _servers.callback(shutil.rmtree, folder, ignore_errors=True)
    postgres = _servers.enter_context(MigratedPostgres(folder))
    valkey = _servers.enter_context(Valkey(folder))
    os.environ |= SHORT_TIMES | {"DATABASE_URL": postgres.database_url(DATABASE), "REDIS_URL": valkey.url}
    return postgres


@cache
def _schema_of_template() -> list[tuple[object, ...]]:
    return _postgres.run_sql(SCHEMA, TEMPLATE)


def _clear_database(name: str) -> bool:
    """Disconnect all clients and delete all rows. This is faster than creating a database.

    Return False, without deleting, if a table, an index or a constraint was added or removed, or the revision changed.
    """
    _postgres.run_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    if _postgres.run_sql(NO_REVISION, name) == [(True,)] or _postgres.run_sql(SCHEMA, name) != _schema_of_template():
        return False
    from tasks.set_backs.memory import in_process

    in_process.clear()  # Otherwise the next test's sweep would notice that the database lost its rows.
    tables = ", ".join(Base.metadata.tables)
    _postgres.run_sql(f"TRUNCATE {tables} RESTART IDENTITY", name)
    return True


# Start the servers before any hook, since the other conftest.py files import modules that read the settings.
_postgres = _start_servers()


def pytest_unconfigure() -> None:
    _servers.close()


@pytest.fixture(params=[SYNTHETIC, REAL], ids=str)
def recordings(request: pytest.FixtureRequest) -> Recordings:
    """Return recordings of upstreams and CSV files. Each test runs with invented ones, and real ones if present."""
    chosen: Recordings = request.param
    if not chosen.folder.is_dir():
        pytest.skip(f"There are no real recordings in {chosen.folder}; set REAL_DATA to their folder.")
    return chosen


@pytest.fixture
def make_database() -> Iterator[Callable[[], str]]:
    """Yield a function that creates an empty, migrated database and returns its URL."""
    names: list[str] = []

    def make() -> str:
        if _empty:
            names.append(_empty.pop())
        else:
            names.append(f"test_{uuid.uuid4().hex}")
            _postgres.create_database(names[-1])
        return _postgres.database_url(names[-1])

    yield make
    for name in names:
        if _clear_database(name):
            _empty.append(name)
        else:
            _postgres.drop_database(name)


@pytest.fixture
def database_url(make_database: Callable[[], str]) -> str:
    return make_database()


@pytest.fixture
def create_database() -> Iterator[Callable[[str], str]]:
    """Yield a function that creates a database without tables, with options of CREATE DATABASE. It returns its URL."""
    names: list[str] = []

    def create(options: str) -> str:
        names.append(f"test_{uuid.uuid4().hex}")
        return _postgres.create_database(names[-1], "template0", options)

    yield create
    for name in names:
        _postgres.drop_database(name)


@pytest.fixture(scope="session")
def stepped_server() -> Iterator[SteppedPostgres]:
    with stepped_postgres() as server:
        yield server


@pytest.fixture
def stepped_database_url(stepped_server: SteppedPostgres) -> Iterator[str]:
    """Yield a database on a server whose clock the test can set. Override `database_url` with this fixture."""
    stepped_server.set_clock(0)
    name = f"test_{uuid.uuid4().hex}"
    yield stepped_server.create_database(name)
    stepped_server.drop_database(name)


@pytest.fixture
def settings(database_url: str) -> Settings:
    return read_settings({**os.environ, "DATABASE_URL": database_url})


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """Yield an engine for the test's database, with the options of a worker's engine."""
    engine = make_engine(settings.database_url, "test", transaction_timeout=settings.transaction_timeout)
    yield engine
    engine.dispose()


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    """Delete all data of the session's broker, and yield a client for it."""
    with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def processes(database_url: str, broker: redis.Redis, tmp_path: Path) -> Iterator[Processes]:
    """Yield a starter of service processes on the test's servers.

    Kill processes that are still running at the end of the test. Print their logs, which pytest shows after a failure.
    """
    processes = Processes(tmp_path, {"DATABASE_URL": database_url})
    yield processes
    processes.kill()
    for process in processes.started:
        print(f"--- {process.role}", process.log.read_text(), sep="\n")  # noqa: T201 — pytest shows it after a failure


@pytest.fixture
def start(processes: Processes) -> Callable[..., Process]:
    """Return a function that starts a service process on the test's servers: start("worker", COINGECKO_URL=…)."""
    return processes.start
