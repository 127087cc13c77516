"""Test the bearer token: it is required for writes, and for reads if READS_NEED_TOKEN is set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from settings import Settings
from tests.app.conftest import serve


@pytest.fixture
def private_api(api_settings: Settings) -> Iterator[FlaskClient]:
    """Return a client of an API whose reads need the token."""
    for app in serve(replace(api_settings, reads_need_token=True)):
        yield app.test_client()


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/nothing", 404), ("DELETE", "/data", 405)])
def test_a_404_and_a_405_take_precedence_over_a_401(api: FlaskClient, method: str, path: str, status: int) -> None:
    assert api.open(path, method=method).status_code == status


@pytest.mark.parametrize("path", ["/health/live", "/docs", "/redoc", "/openapi.json", "/static/swagger.js"])
def test_public_endpoints_never_need_the_token(private_api: FlaskClient, path: str) -> None:
    assert private_api.get(path, buffered=True).status_code == 200


def test_private_reads_are_documented_to_need_the_token(private_api: FlaskClient) -> None:
    document: Any = private_api.get("/openapi.json").json
    assert document["security"] == [{"token": []}]
    assert "401" in document["paths"]["/data"]["get"]["responses"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_case_insensitive(private_api: FlaskClient, token: dict[str, str], scheme: str) -> None:
    value = token["Authorization"].replace("Bearer", scheme)
    assert private_api.get("/assets", headers={"Authorization": value}).status_code == 200


def test_only_a_wrong_token_is_reported_as_invalid(private_api: FlaskClient) -> None:
    missing: Any = private_api.get("/assets")
    wrong: Any = private_api.get("/assets", headers={"Authorization": "Bearer wrong"})
    assert missing.headers["WWW-Authenticate"] == 'Bearer realm="kasparro"'
    assert wrong.headers["WWW-Authenticate"] == 'Bearer realm="kasparro", error="invalid_token"'
    assert (missing.json["title"], wrong.json["title"]) == ("Token required", "Invalid token")
