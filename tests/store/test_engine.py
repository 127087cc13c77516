"""Test the session settings of the engines, and the connections that they reuse."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

import store.engine
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


def test_a_database_that_cannot_store_every_text_is_refused(create_database: Callable[[str], str]) -> None:
    engine = make_engine(create_database("ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"), "test")
    with pytest.raises(UnsuitablePostgres, match="The one at DATABASE_URL has LATIN1"):
        check_postgres(engine)
    engine.dispose()
