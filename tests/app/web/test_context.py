"""Test the setup of each database engine of the application."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.web.context import context_of, discard_connections
from settings import Settings
from tests.app.conftest import serve


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
