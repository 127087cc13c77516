"""The API on a database of the test's own, and rows to put in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from app import create_app
from app.state import state_of
from settings import Settings
from tests.api.rows import Rows

TOKEN = "a-token-that-only-these-tests-know"


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
def token() -> dict[str, str]:
    """The header that lets a request write."""
    return {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def rows(engine: Engine) -> Rows:
    return Rows(engine)


def serve(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    state_of(app).engine.dispose()
    state_of(app).database_probes.shutdown()
    state_of(app).broker_probes.shutdown()
