"""Test every endpoint's token check, request id and error responses, with and without a database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app.web.problems import Code
from settings import Settings
from tests.app.conftest import PASSWORD, TOKEN, serve
from tests.app.quotes.test_data import get
from tests.app.rows import Rows


@pytest.fixture
def private_api(api_settings: Settings) -> Iterator[FlaskClient]:
    """Return a client of the API with READS_NEED_TOKEN."""
    for app in serve(replace(api_settings, reads_need_token=True)):
        yield app.test_client()


@pytest.fixture
def api_without_token(api_settings: Settings) -> Iterator[FlaskClient]:
    """Return a client of the API without API_TOKEN."""
    for app in serve(replace(api_settings, api_token=None)):
        yield app.test_client()


def test_a_request_succeeds_after_a_restart_of_postgres(api: FlaskClient, engine: Engine) -> None:
    get(api, "/data")
    sessions = "FROM pg_stat_activity WHERE application_name = 'kasparro-web' AND datname = current_database()"
    with engine.connect() as connection:
        assert all(connection.scalars(text(f"SELECT pg_terminate_backend(pid, 1000) {sessions}")).all() or [False])
    get(api, "/data")


@pytest.mark.parametrize("path", ["/data", "/data/latest", "/assets", "/sources", "/runs", "/stats"])
def test_without_a_database_a_read_is_a_503_to_be_retried(api_without_database: FlaskClient, path: str) -> None:
    response = api_without_database.get(path)
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (503, "database_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert PASSWORD not in response.text


def test_a_query_that_takes_too_long_is_a_503_that_suggests_filters(
    api_settings: Settings, engine: Engine, rows: Rows
) -> None:
    with engine.connect() as connection:
        connection.execute(text("LOCK TABLE quotes IN ACCESS EXCLUSIVE MODE"))
        for app in serve(replace(api_settings, statement_timeout=0.3)):
            response = app.test_client().get("/data")
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (503, "query_timeout")
    assert "Narrow" in response.json["hint"]


def test_a_dropped_table_is_a_503_that_suggests_the_backup(api: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE quotes"))
    response = api.get("/data")
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (503, "database_unavailable")
    assert "restore the backup" in response.json["hint"]


def test_an_unexpected_error_is_a_500_without_a_traceback(app: Flask) -> None:
    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError(f"cannot log in with {PASSWORD}")

    response = app.test_client().get("/broken")
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (500, "internal_error")
    assert response.json["request_id"] in response.json["detail"]
    assert PASSWORD not in response.text
    assert "Traceback" not in response.text


WRITES = (
    "POST /runs",
    "POST /runs/00000000-0000-0000-0000-000000000001/cancel",
    "POST /rejects/replay",
    "POST /sources/coingecko/drift/1/accept",
    "POST /sources/coingecko/pause",
    "POST /sources/coingecko/resume",
    "DELETE /sources/coingecko/missing-partitions",
    "POST /assets/bitcoin/merge",
    "POST /assets/bitcoin/split",
    "POST /assets/bitcoin/pin",
    "POST /decisions/00000000-0000-0000-0000-000000000001/undo",
)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "token_required"),
        ("Basic eDp5", "token_required"),
        ("Bearer ", "token_required"),
        ("Bearer wrong", "token_invalid"),
        (f"Bearer {TOKEN}x", "token_invalid"),
        ("Bearer \xe9", "token_invalid"),
    ],
)
def test_every_write_needs_the_token(api: FlaskClient, header: str | None, code: str) -> None:
    for write in WRITES:
        method, path = write.split()
        response = api.open(path, method=method, headers={"Authorization": header} if header else {})
        assert response.json is not None
        assert (response.status_code, response.json["code"]) == (401, code)
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_list_contains_every_write_endpoint(app: Flask) -> None:
    rules = [
        rule for rule in app.url_map.iter_rules() if rule.methods and not rule.methods <= {"GET", "HEAD", "OPTIONS"}
    ]
    assert len(rules) == len(WRITES)


def test_without_a_token_in_the_settings_no_write_is_accepted(
    api_without_token: FlaskClient, token: dict[str, str]
) -> None:
    for headers in ({}, token, {"Authorization": "Bearer None"}):
        response = api_without_token.post("/runs", json={"all": True}, headers=headers)
        assert response.json is not None
        assert response.status_code == 401
        assert "API_TOKEN" in response.json["hint"]


def test_reads_need_the_token_with_reads_need_token(private_api: FlaskClient, token: dict[str, str]) -> None:
    for path in ("/data", "/health", "/metrics", "/stats"):
        assert private_api.get(path).status_code == 401
        assert private_api.get(path, headers=token).status_code == 200
    for path in ("/health/live", "/docs", "/openapi.json"):
        assert private_api.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/data", "/nothing", "/health", "/data?limit=0"])
def test_every_response_carries_the_request_id_and_its_time(api: FlaskClient, path: str) -> None:
    response = api.get(path, headers={"X-Request-ID": 'mine "quoted"'})
    assert response.json is not None
    assert response.json["request_id"] == response.headers["X-Request-ID"] == 'mine "quoted"'
    assert response.json["api_latency_seconds"] > 0


@pytest.mark.parametrize("sent", ["x" * 129, "tab\there", "\xe9"])
def test_a_request_id_that_is_not_printable_ascii_is_replaced(api: FlaskClient, sent: str) -> None:
    response = api.get("/health/live", headers={"X-Request-ID": sent})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])


def test_an_unknown_path_is_a_404_that_suggests_the_nearest_path(api: FlaskClient) -> None:
    response = api.get("/dtaa")
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (404, "not_found")
    assert "'/data'" in response.json["detail"]


def test_an_unsupported_method_is_a_405_that_lists_the_supported_methods(
    api: FlaskClient, token: dict[str, str]
) -> None:
    for headers in ({}, token):
        response = api.delete("/data", headers=headers)
        assert response.json is not None
        assert (response.status_code, response.json["code"]) == (405, "method_not_allowed")
        assert "GET" in response.headers["Allow"]


@pytest.mark.parametrize("path", ["/health", "/stats", "/sources", "/sources/coingecko", "/metrics"])
def test_an_endpoint_without_parameters_refuses_a_query(api: FlaskClient, path: str) -> None:
    response = api.get(f"{path}?verbose=1")
    assert response.json is not None
    assert (response.status_code, response.json["errors"][0]["name"]) == (422, "verbose")


def test_every_error_code_is_documented(api: FlaskClient) -> None:
    document = get(api, "/openapi.json")
    for code in Code:
        problem = get(api, f"/problems/{code.slug}")
        assert (problem["status"], problem["title"], problem["about"]) == (code.status, code.title, code.about)
        assert f"| `{code.slug}` | {code.status} |" in document["info"]["description"]
        assert code.slug in document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
