"""Test the session settings of the engines, and the connections that they reuse."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

import store.engine
from devstack.postgres import Postgres
from settings import Settings
from store.engine import UnsuitablePostgres, application_name, check_postgres, database_url, make_engine


def backend_pid(engine: Engine) -> int:
    with engine.connect() as connection:
        pid: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    return pid


def terminate(settings: Settings, pid: int) -> None:
    with closing(psycopg2.connect(settings.database_url)) as connection, connection.cursor() as cursor:
        # With a timeout, the function returns after the session has ended.
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def test_a_url_without_a_driver_gets_the_driver_of_the_service() -> None:
    assert database_url("postgresql://u:p%40w@h:1/d").drivername == "postgresql+psycopg2"
    assert database_url("postgres://u:p%40w@h:1/d").password == "p@w"


def test_sessions_have_the_name_of_their_role_and_the_given_timeouts(settings: Settings) -> None:
    engine = make_engine(settings.database_url, "test", statement_timeout=1.5, transaction_timeout=6)
    names = (
        "application_name",
        "timezone",
        "statement_timeout",
        "transaction_timeout",
        "idle_in_transaction_session_timeout",
        "lock_timeout",
    )
    with engine.connect() as connection:
        values = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]
    engine.dispose()
    assert values == [application_name("test"), "UTC", "1500ms", "6s", "6s", "2s"]


@pytest.mark.parametrize("ping", [True, False])
def test_a_connection_that_the_server_closed_is_not_reused(settings: Settings, ping: bool) -> None:
    engine = make_engine(settings.database_url, "test", ping=ping)
    first = backend_pid(engine)
    assert backend_pid(engine) == first
    terminate(settings, first)
    assert backend_pid(engine) != first
    engine.dispose()


def test_a_connection_to_a_server_that_became_a_standby_is_not_reused(engine: Engine) -> None:
    first = backend_pid(engine)
    assert backend_pid(engine) == first
    refusal = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = 'read only'; END $$"
    with pytest.raises(DBAPIError), engine.connect() as connection:
        connection.execute(text(refusal))
    assert backend_pid(engine) != first


def test_a_server_that_is_too_old_is_refused_with_its_version(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    check_postgres(engine)
    monkeypatch.setattr(store.engine, "MIN_POSTGRES", 99)
    with pytest.raises(UnsuitablePostgres, match=r"needs Postgres 99 or newer\. The server at DATABASE_URL is version"):
        check_postgres(engine)


@pytest.mark.parametrize(("configured", "used"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
def test_a_commit_is_durable_even_if_the_database_switched_this_off(
    settings: Settings, engine: Engine, configured: str, used: str
) -> None:
    with engine.begin() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = {configured}"))
    fresh = make_engine(settings.database_url, "test")
    with fresh.connect() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == used
        connection.rollback()
        assert connection.scalar(text("SHOW synchronous_commit")) == used
    fresh.dispose()
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {name} RESET synchronous_commit"))


def test_a_killed_server_with_asynchronous_commits_loses_no_commit_of_the_service(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path)
    try:
        engine = make_engine(postgres.start(), "test")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for setting in ("synchronous_commit = off", "wal_writer_delay = '10s'"):
                connection.execute(text(f"ALTER SYSTEM SET {setting}"))
            connection.execute(text("CREATE TABLE kept (number int)"))
        engine.dispose()
        postgres.stop()
        postgres.start()
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO kept VALUES (1)"))
        postgres.kill()
        engine.dispose()
        postgres.start()
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM kept")) == 1
        engine.dispose()
    finally:
        postgres.stop()
        postgres.erase()


def test_a_database_that_cannot_store_every_text_is_refused(create_database: Callable[[str], str]) -> None:
    engine = make_engine(create_database("ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"), "test")
    with pytest.raises(UnsuitablePostgres, match="The database at DATABASE_URL has LATIN1"):
        check_postgres(engine)
    engine.dispose()
