"""Provide the API on a separate database, and rows to insert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app import create_app
from app.web.context import context_of
from settings import Settings
from tests.app.rows import NOON, Rows

TOKEN = "a-token-that-only-these-tests-know"
PASSWORD = "a-password-nobody-may-see"


@pytest.fixture
def api_settings(settings: Settings) -> Settings:
    # A minute, so that a circuit breaker stays open for the whole test.
    return replace(settings, api_token=TOKEN, breaker_cooldown=60.0, request_deadline=60.0)


@pytest.fixture
def app(api_settings: Settings) -> Iterator[Flask]:
    yield from serve(api_settings)


@pytest.fixture
def api(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def uncached(api_settings: Settings) -> Iterator[FlaskClient]:
    """Return a client of the same API without its response cache."""
    for app in serve(replace(api_settings, response_cache_mb=0)):
        yield app.test_client()


@pytest.fixture
def token() -> dict[str, str]:
    """Return the header that authorizes a write."""
    return {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def rows(engine: Engine) -> Rows:
    return Rows(engine)


@pytest.fixture
def insert_quotes(rows: Rows) -> Callable[[int], None]:
    """Return a function that inserts quotes of one listing, one a second from noon; random run ids do not compress."""

    def insert(count: int) -> None:
        listing = rows.listing()
        statement = text("""
            INSERT INTO quotes (listing_id, observed_at, price, fetched_at, ingested_at, run)
            SELECT :listing, CAST(:noon AS timestamptz) + make_interval(secs => number), number, :noon, :noon,
                   gen_random_uuid()
              FROM generate_series(CAST(:first AS int), :last) AS number
        """)
        # One transaction for all rows would exceed the transaction timeout.
        for first in range(0, count, 5000):
            with rows.engine.begin() as connection:
                last = min(first + 5000, count) - 1
                connection.execute(statement, {"listing": listing, "noon": NOON, "first": first, "last": last})

    return insert


def serve(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    context_of(app).engine.dispose()
    context_of(app).database_probes.shutdown()
    context_of(app).broker_probes.shutdown()


@pytest.fixture
def api_without_database(api_settings: Settings) -> Iterator[FlaskClient]:
    """Return a client of an API whose DATABASE_URL names a port without a server."""
    for app in serve(replace(api_settings, database_url=f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/nowhere")):
        yield app.test_client()
