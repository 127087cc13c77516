"""Test that every exception becomes an error response that names the problem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text


@pytest.fixture
def refuse_runs(engine: Engine) -> Iterator[Any]:
    """Return a function that makes Postgres reject new runs with a given error."""

    def refuse(name: str) -> None:
        with engine.begin() as connection:
            connection.execute(
                text(f"""
                    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        RAISE USING ERRCODE = '{name}', MESSAGE = 'could not extend file "base/1/2"'; END $$;
                    CREATE TRIGGER refuse BEFORE INSERT ON runs EXECUTE FUNCTION refuse();
                """)
            )

    yield refuse
    with engine.begin() as connection:
        connection.execute(text("DROP FUNCTION refuse CASCADE"))


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("disk_full", "The disk of the database is full."),
        ("read_only_sql_transaction", "The database cannot process the request now."),
        ("too_many_connections", "The database is unreachable."),
        ("serialization_failure", "The request conflicted with a concurrent transaction."),
    ],
)
def test_a_database_error_is_a_503_that_can_be_retried(
    api: FlaskClient, token: dict[str, str], refuse_runs: Any, name: str, detail: str
) -> None:
    refuse_runs(name)
    response = api.post("/runs", json={"source": "coingecko"}, headers=token)
    assert response.json is not None
    assert (response.status_code, response.json["code"], response.json["detail"]) == (
        503,
        "database_unavailable",
        detail,
    )
    assert int(response.headers["Retry-After"]) > 0
    assert "could not extend" not in response.text


@pytest.mark.parametrize("path", ["/dat%00", "/assets/%00"])
def test_a_path_with_nul_is_a_404(api: FlaskClient, path: str) -> None:
    response: Any = api.get(path)
    assert (response.status_code, response.json["code"]) == (404, "not_found")


def test_a_body_that_is_too_large_is_a_413_that_names_the_maximum(api: FlaskClient, token: dict[str, str]) -> None:
    response: Any = api.post("/runs", data=b"x" * 70_000, content_type="application/json", headers=token)
    assert (response.status_code, response.json["title"]) == (413, "Body too large")
    assert response.json["detail"] == "The body is larger than the maximum of 65536 bytes."


def test_the_error_for_an_unsupported_method_lists_the_supported_methods(api: FlaskClient) -> None:
    response: Any = api.put("/health/live")
    assert response.json["detail"] == "'/health/live' does not support 'PUT'; expected one of GET, HEAD, OPTIONS."


def test_the_error_for_an_unknown_path_suggests_the_nearest_path(api: FlaskClient) -> None:
    response: Any = api.get("/assetz")
    assert response.json["detail"] == "There is nothing at '/assetz'; did you mean '/assets'?"


def test_a_schema_that_is_behind_is_a_503_that_names_the_migration(api: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE quotes RENAME price TO renamed"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0012'"))
    for path in ("/data", "/data/latest"):
        response: Any = api.get(path)
        assert (response.status_code, response.json["code"]) == (503, "schema_behind"), path
        assert response.json["detail"].startswith("The schema has revision 0012, and this version needs")
        assert int(response.headers["Retry-After"]) > 0
    assert api.get("/runs").status_code == 200
