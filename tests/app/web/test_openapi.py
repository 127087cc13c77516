"""Test that the OpenAPI document matches the API, and that its texts are valid Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, strategies
from hypothesis import settings as hypothesis_settings
from openapi_spec_validator import validate
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
)


def operations(api: FlaskClient) -> list[tuple[str, dict[str, Any]]]:
    """Return every operation in the document with its method."""
    paths = get(api, "/openapi.json")["paths"].values()
    return [(method, path[method]) for path in paths for method in ("get", "post") if method in path]


def test_the_document_is_valid_openapi(api: FlaskClient) -> None:
    document = get(api, "/openapi.json")
    assert document["openapi"].startswith("3.1")
    validate(document)
    assert "request_id" not in document


def test_every_operation_has_an_id_a_summary_and_a_default_response(api: FlaskClient) -> None:
    documented = [operation for _, operation in operations(api)]
    ids = [operation["operationId"] for operation in documented]
    assert len(set(ids)) == len(ids) > 15
    for operation in documented:
        assert operation["summary"]
        assert "default" in operation["responses"]


def test_prices_are_documented_as_strings(api: FlaskClient) -> None:
    price = get(api, "/openapi.json")["components"]["schemas"]["Quote"]["properties"]["price"]
    assert price["type"] == "string"
    assert re.fullmatch(price["pattern"], "0.0000001")


def test_data_documents_its_file_formats_in_addition_to_json(api: FlaskClient) -> None:
    response = get(api, "/openapi.json")["paths"]["/data"]["get"]["responses"]["200"]
    media_types = {"application/json", "text/csv", "application/x-ndjson", "application/vnd.apache.parquet"}
    assert response["content"].keys() == media_types
    assert {"X-Row-Count", "X-Ingested-Until", "Link"} <= response["headers"].keys()


def test_exactly_the_writes_are_documented_to_need_the_token(api: FlaskClient) -> None:
    for method, operation in operations(api):
        assert (operation.get("security") == [{"token": []}]) == (method == "post")


def test_exactly_the_operations_with_a_body_document_its_errors(api: FlaskClient) -> None:
    documented = [operation for _, operation in operations(api)]
    assert any("requestBody" in operation for operation in documented)
    for operation in documented:
        errors = {"400", "413", "415"} & operation["responses"].keys()
        assert errors == ({"400", "413", "415"} if "requestBody" in operation else set())


@pytest.fixture
def sample_rows(rows: Rows) -> None:
    run = rows.run(status="partial")
    rows.quote(rows.listing(), NOON, "0.00000012", run=run)
    rows.reject(rows.page(run, inserted=1, rejected=1))
    rows.checkpoint(updated_at=NOON)


def test_every_response_to_generated_requests_matches_the_document(
    app: Flask, sample_rows: None, token: dict[str, str]
) -> None:
    loaded = [result.ok() for result in schemathesis.openapi.from_wsgi("/openapi.json", app).get_all_operations()]

    @hypothesis_settings(
        max_examples=250,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategies.data())
    def probe(data: Any) -> None:
        case = data.draw(data.draw(strategies.sampled_from(loaded)).as_strategy())
        # Schemathesis accepts gzip, but does not decompress responses of a WSGI application.
        case.call_and_validate(headers={**token, "Accept-Encoding": "identity"}, checks=CHECKS)

    probe()


@hypothesis_settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=strategies.sampled_from(
        ("/data", "/data/latest", "/assets", "/runs", "/runs/x/rejects", "/sources/", "/assets/")
    ),
    name=strategies.sampled_from(
        ("source", "asset", "symbol", "cursor", "fields", "run", "limit", "observed_from", "x")
    ),
    value=strategies.one_of(
        strategies.binary(max_size=40), strategies.text(max_size=40).map(lambda value: value.encode(errors="replace"))
    ),
    in_path=strategies.booleans(),
)
def test_no_bytes_in_a_path_or_query_cause_a_server_error(
    api: FlaskClient, path: str, name: str, value: bytes, in_path: bool
) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in value)
    response = api.get(f"{path}{quoted}" if in_path else f"{path}?{name}={quoted}")
    assert response.status_code < 500


def texts(node: Any) -> Iterator[str]:
    """Yield every text in the document that Swagger UI and ReDoc render as Markdown."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("description", "summary") and isinstance(value, str):
                yield value
            else:
                yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)


def test_no_text_has_an_angle_bracket_that_markdown_treats_as_html(api: FlaskClient) -> None:
    documented = list(texts(get(api, "/openapi.json")))
    assert len(documented) > 200
    for text in documented:
        assert "<" not in re.sub(r"`[^`]*`", "", text)
