"""The API on a database of the test's own, and rows to put in it."""

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
    # Minutes, so that a breaker which a test sets stands as long as the test.
    return replace(settings, api_token=TOKEN, breaker_cooldown=60.0, request_deadline=60.0)


@pytest.fixture
def app(api_settings: Settings) -> Iterator[Flask]:
    yield from serve(api_settings)


@pytest.fixture
def api(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def uncached(api_settings: Settings) -> Iterator[FlaskClient]:
    """The same service, but that it keeps no answer."""
    for app in serve(replace(api_settings, answer_cache_mb=0)):
        yield app.test_client()


@pytest.fixture
def token() -> dict[str, str]:
    """The header that lets a request write."""
    return {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def rows(engine: Engine) -> Rows:
    return Rows(engine)


@pytest.fixture
def many(rows: Rows) -> Callable[[int], None]:
    """Makes so many quotes of one listing, one a second from noon on, which no compression makes small."""

    def make(count: int) -> None:
        listing = rows.listing()
        made = text("""
            INSERT INTO quotes (listing_id, observed_at, price, fetched_at, ingested_at, run)
            SELECT :listing, CAST(:noon AS timestamptz) + make_interval(secs => it), it, :noon, :noon, gen_random_uuid()
              FROM generate_series(CAST(:first AS int), :last) AS it
        """)
        # One transaction for all would take longer than one may.
        for first in range(0, count, 5000):
            with rows.engine.begin() as connection:
                last = min(first + 5000, count) - 1
                connection.execute(made, {"listing": listing, "noon": NOON, "first": first, "last": last})

    return make


def serve(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    context_of(app).engine.dispose()
    context_of(app).database_probes.shutdown()
    context_of(app).broker_probes.shutdown()


@pytest.fixture
def api_without_database(api_settings: Settings) -> Iterator[FlaskClient]:
    """The same API, whose DATABASE_URL names a port on which nothing listens."""
    for app in serve(replace(api_settings, database_url=f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/nowhere")):
        yield app.test_client()
