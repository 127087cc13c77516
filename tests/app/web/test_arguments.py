"""Test that an invalid argument is rejected, and that the error names its place and the expected value."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from marshmallow import ValidationError, missing

from app.web.arguments import CommaSeparated, Text
from tests.app.rows import Rows


@pytest.mark.parametrize(
    ("query", "name", "expected"),
    [
        ("sorce=coingecko", "sorce", "did you mean 'source'?"),
        ("source=coingeko", "source", "did you mean 'coingecko'?"),
        ("asset=bitcion", "asset", "did you mean 'bitcoin'?"),
        ("fields=prise", "fields", "did you mean 'price'?"),
        ("order=descending", "order", "expected one of desc, asc"),
        ("limit=0", "limit", "from 1 to 1000"),
        ("limit=1001", "limit", "from 1 to 1000"),
        ("limit=99999999999999999999999", "limit", "from 1 to 1000"),
        ("limit=ten", "limit", "from 1 to 1000"),
        ("limit=5&limit=6", "limit", "given 2 times, expected once"),
        ("observed_from=yesterday", "observed_from", "2026-01-31T12:00:00Z"),
        ("observed_from=2026-01-31T12:00:00", "observed_from", "with an offset"),
        ("observed_to=0001-01-01T00:00:00%2B14:00", "observed_to", "with an offset"),
        ("run=7", "run", "a UUID"),
        ("symbol=%00", "symbol", "without NUL"),
        ("asset=", "asset", "Length"),
        ("cursor=nonsense", "cursor", "damaged"),
    ],
)
def test_the_error_names_an_invalid_argument_and_the_expected_value(
    api: FlaskClient, rows: Rows, query: str, name: str, expected: str
) -> None:
    rows.listing("bitcoin")
    response = api.get(f"/data?{query}")
    assert response.status_code == 422
    assert response.mimetype == "application/problem+json"
    assert response.json is not None
    [error] = response.json["errors"]
    assert (error["in"], error["name"]) == ("query", name)
    assert expected in error["detail"]


def test_an_error_lists_the_allowed_parameters(api: FlaskClient) -> None:
    response: Any = api.get("/assets?nme=x")
    assert response.json["detail"].startswith("nme: unknown")
    assert response.json["hint"].startswith("Allowed parameters: ")
    without: Any = api.get("/health?x=1")
    assert without.json["hint"] == "Allowed parameters: none."


def test_every_invalid_argument_is_listed(api: FlaskClient) -> None:
    response: Any = api.get("/data?limit=0&order=up&source=x")
    assert {error["name"] for error in response.json["errors"]} == {"limit", "order", "source"}


@pytest.mark.parametrize(
    ("content_type", "detail"),
    [
        ("text/plain", "The body was sent as 'text/plain', expected application/json."),
        ("", "The body was sent without a Content-Type, expected application/json."),
    ],
)
def test_the_error_for_a_body_that_is_not_json_names_the_expected_type(
    api: FlaskClient, token: dict[str, str], content_type: str, detail: str
) -> None:
    response: Any = api.post("/runs", data=b"{}", content_type=content_type, headers=token)
    assert (response.status_code, response.json["detail"]) == (415, detail)


def test_comma_separated_names_keep_their_order_without_duplicates() -> None:
    field = CommaSeparated(("a", "b", "c"), "letter", "Letters.")
    assert field.deserialize("c, a,c") == ("c", "a")
    assert field.deserialize(missing) == ("a", "b", "c")
    with pytest.raises(ValidationError, match="there is no letter 'd'"):
        field.deserialize("a,d")


@pytest.mark.parametrize("text", ["\0", "\ud800", "", "x" * 301, 7])
def test_text_that_postgres_cannot_store_or_that_is_too_long_is_rejected(text: Any) -> None:
    with pytest.raises(ValidationError):
        Text().deserialize(text)
