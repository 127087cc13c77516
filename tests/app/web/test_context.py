"""Test the setup of each database engine of the application."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from app.web import context
from app.web.context import context_of, discard_connections
from settings import Settings
from tests.app.conftest import serve
from tests.processes import until


@pytest.fixture
def app_with_one_export(api_settings: Settings) -> Iterator[Flask]:
    yield from serve(replace(api_settings, exports_at_once=1))


def test_an_export_reads_one_snapshot_and_cannot_write(app: Flask) -> None:
    with context_of(app).exporter.connect() as connection:
        assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        with pytest.raises(DBAPIError, match="read-only transaction"):
            connection.execute(text("DELETE FROM quotes"))


def test_a_read_holds_no_transaction_open(app: Flask) -> None:
    with context_of(app).reader.connect() as connection:
        first, second = (connection.execute(text("SELECT now()")).scalar_one() for _ in range(2))
    assert first < second


def test_a_query_ends_at_the_statement_timeout(app: Flask, api_settings: Settings) -> None:
    for engine in (context_of(app).engine, context_of(app).reader, context_of(app).exporter):
        with engine.connect() as connection:
            timeout = connection.scalar(text("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"))
        assert timeout == api_settings.statement_timeout * 1000


def test_the_number_of_exports_is_limited(app_with_one_export: Flask) -> None:
    slots = context_of(app_with_one_export).export_slots
    assert slots.acquire(blocking=False)
    assert not slots.acquire(blocking=False)


def test_a_child_process_discards_its_parents_connections_without_closing_them(app: Flask) -> None:
    reader = context_of(app).reader
    with reader.connect() as connection:
        inherited = connection.connection.driver_connection
    discard_connections(app)
    with reader.connect() as connection:
        assert connection.connection.driver_connection is not inherited
    assert inherited is not None
    assert not inherited.closed
    inherited.close()


CONNECTIONS = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'kasparro-%'
       AND application_name <> 'kasparro-test'
""")


def test_reads_writes_and_exports_share_one_pool_and_idle_connections_are_closed(
    api_settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "IDLE_TIMEOUT", 2.0)

    def count() -> int:
        with engine.connect() as connection:
            return int(connection.scalar(CONNECTIONS) or 0)

    for app in serve(api_settings):
        shared = context_of(app)
        with ExitStack() as used:
            for kind in (shared.reader, shared.engine, shared.exporter, shared.reader):
                for _ in range(2):
                    used.enter_context(kind.connect()).execute(text("SELECT 1"))
            assert count() == 8
        until(lambda: count() == 0)
        assert app.test_client().get("/data").status_code == 200


def test_an_export_may_take_longer_than_other_requests_and_leaves_the_connection_unchanged(
    api_settings: Settings,
) -> None:
    for app in serve(replace(api_settings, statement_timeout=0.2, export_timeout=30)):
        shared = context_of(app)
        names = "transaction_timeout", "idle_in_transaction_session_timeout", "application_name"
        state = text(", ".join(f"current_setting('{name}')" for name in names).join(("SELECT ", ", pg_backend_pid()")))
        with shared.reader.connect() as connection:
            before = connection.execute(state).one()
        with shared.exporter.connect() as connection:
            during = connection.execute(state).one()
            for _ in range(4):
                connection.execute(text("SELECT pg_sleep(0.1)"))
        with shared.reader.connect() as connection:
            assert connection.execute(state).one() == before
        assert tuple(during) == ("30s", "30s", "kasparro-export", before[-1])
