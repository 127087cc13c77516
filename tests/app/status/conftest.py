"""Provide a healthy service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.app.quotes.test_data import get
from tests.app.rows import Rows


@pytest.fixture
def healthy_api(api: FlaskClient, rows: Rows, broker: Any) -> FlaskClient:
    """Return a client of the API while every component is working."""
    for part in ("worker", "control", "beat"):
        rows.heartbeat(part, datetime.now(UTC))
    rows.run()
    assert get(api, "/health")["status"] == "ok"
    return api
