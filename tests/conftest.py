"""Real servers for every test: one Postgres and one Valkey for a process, a database of its own for each test."""

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
from tests.servers import TEMPLATE, MigratedPostgres
from tests.short_times import SHORT_TIMES, forget_the_callers_settings

# A copy of a database has the numbers of the one it was copied from.
SCHEMA = "SELECT oid FROM pg_class UNION ALL SELECT oid FROM pg_constraint ORDER BY oid"

_servers = ExitStack()
_empty: list[str] = []


def _start_servers() -> MigratedPostgres:
    """Start the servers. Nothing of the caller's environment reaches the tests."""
    forget_the_callers_settings()
    folder = Path(tempfile.mkdtemp(prefix="kasparro-tests-"))
    _servers.callback(shutil.rmtree, folder, ignore_errors=True)
    postgres = _servers.enter_context(MigratedPostgres(folder))
    valkey = _servers.enter_context(Valkey(folder))
    postgres.skip_fsync()
    os.environ |= SHORT_TIMES | {"DATABASE_URL": postgres.database_url(DATABASE), "REDIS_URL": valkey.url}
    return postgres


@cache
def _schema_of_template() -> list[tuple[object, ...]]:
    return _postgres.run_sql(SCHEMA, TEMPLATE)


def _clear_database(name: str) -> bool:
    """What a test left connected is cut off; then nothing is left of its rows. Quicker than another database.

    False for a database that lost or gained a table, an index or a constraint: no other test may have it.
    """
    _postgres.run_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    if _postgres.run_sql(SCHEMA, name) != _schema_of_template():
        return False
    tables = ", ".join(Base.metadata.tables)
    _postgres.run_sql(f"TRUNCATE {tables} RESTART IDENTITY", name)
    return True


# Now, not in a hook: pytest imports the conftest.py of every folder first, and those import what reads the settings.
_postgres = _start_servers()


def pytest_unconfigure() -> None:
    _servers.close()


@pytest.fixture(params=[SYNTHETIC, REAL], ids=str)
def recordings(request: pytest.FixtureRequest) -> Recordings:
    """Recordings of upstreams and CSV files: the project's invented ones, and real ones, which it does not have."""
    chosen: Recordings = request.param
    if not chosen.folder.is_dir():
        pytest.skip(f"There are no real recordings in {chosen.folder}; set REAL_DATA to their folder.")
    return chosen


@pytest.fixture
def make_database() -> Iterator[Callable[[], str]]:
    """Makes databases with the tables and nothing in them; gives their URLs."""
    made: list[str] = []

    def make() -> str:
        if _empty:
            made.append(_empty.pop())
        else:
            made.append(f"test_{uuid.uuid4().hex}")
            _postgres.create_database(made[-1])
        return _postgres.database_url(made[-1])

    yield make
    for name in made:
        if _clear_database(name):
            _empty.append(name)
        else:
            _postgres.drop_database(name)


@pytest.fixture
def database_url(make_database: Callable[[], str]) -> str:
    return make_database()


@pytest.fixture
def settings(database_url: str) -> Settings:
    return read_settings({**os.environ, "DATABASE_URL": database_url})


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """The test's own database, as a worker connects to it."""
    engine = make_engine(settings.database_url, "test", transaction_timeout=settings.transaction_timeout)
    yield engine
    engine.dispose()


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    """The session's broker, with nothing in it."""
    with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def processes(database_url: str, broker: redis.Redis, tmp_path: Path) -> Iterator[Processes]:
    """Processes of the service on the test's servers. What still runs at the end of the test is killed.

    What they logged is shown if the test failed.
    """
    processes = Processes(tmp_path, {"DATABASE_URL": database_url})
    yield processes
    processes.kill()
    for process in processes.started:
        print(f"--- {process.role}", process.log.read_text(), sep="\n")  # noqa: T201 — pytest shows it for a failure


@pytest.fixture
def start(processes: Processes) -> Callable[..., Process]:
    """Starts a process of the service on the test's servers: start("worker", COINGECKO_URL=…)."""
    return processes.start
