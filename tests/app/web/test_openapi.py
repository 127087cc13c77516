"""The document describes what is really taken and sent; its pages need nothing from elsewhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as effort
from hypothesis import strategies as some
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


def described(api: FlaskClient) -> list[tuple[str, dict[str, Any]]]:
    """Every operation of the document, with its method."""
    paths = get(api, "/openapi.json")["paths"].values()
    return [(method, path[method]) for path in paths for method in ("get", "post") if method in path]


def test_the_document_is_valid_openapi(api: FlaskClient) -> None:
    document = get(api, "/openapi.json")
    assert document["openapi"].startswith("3.1")
    validate(document)
    assert "request_id" not in document


def test_every_operation_has_a_name_a_summary_and_its_problems(api: FlaskClient) -> None:
    operations = [operation for _, operation in described(api)]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) > 15
    for operation in operations:
        assert operation["summary"]
        assert "default" in operation["responses"]


def test_prices_are_documented_as_the_text_they_are(api: FlaskClient) -> None:
    price = get(api, "/openapi.json")["components"]["schemas"]["Quote"]["properties"]["price"]
    assert price["type"] == "string"
    assert re.fullmatch(price["pattern"], "0.0000001")


def test_the_files_of_data_are_documented_beside_its_pages(api: FlaskClient) -> None:
    answer = get(api, "/openapi.json")["paths"]["/data"]["get"]["responses"]["200"]
    kinds = {"application/json", "text/csv", "application/x-ndjson", "application/vnd.apache.parquet"}
    assert answer["content"].keys() == kinds
    assert {"X-Row-Count", "X-Ingested-Until", "Link"} <= answer["headers"].keys()


def test_every_write_is_documented_to_need_the_token(api: FlaskClient) -> None:
    for method, operation in described(api):
        assert (operation.get("security") == [{"token": []}]) == (method == "post")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_of_documentation_loads_only_what_is_served_here(api: FlaskClient, path: str) -> None:
    page = api.get(path)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href|spec-url|data-document)="([^"]+)"', page.text)
    assert len(loaded) >= 4
    for address in loaded:
        assert address.startswith("/")
        assert api.get(address, buffered=True).status_code == 200
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son\w+=", page.text)


def test_redoc_is_the_file_its_note_says(app: Flask) -> None:
    folder = Path(app.root_path, "static", "redoc")
    [said] = re.findall(r"sha256: (\w{64})", (folder / "VERSION.txt").read_text())
    assert hashlib.sha256((folder / "redoc.standalone.js").read_bytes()).hexdigest() == said


def test_the_root_leads_to_the_documentation(api: FlaskClient) -> None:
    assert api.get("/").headers["Location"] == "/docs"


@pytest.fixture
def filled(rows: Rows) -> None:
    run = rows.run(status="partial")
    rows.quote(rows.listing(), NOON, "0.00000012", run=run)
    rows.reject(rows.page(run, inserted=1, rejected=1))
    rows.checkpoint(updated_at=NOON)


def test_no_request_breaks_it_and_no_answer_departs_from_the_document(
    app: Flask, filled: None, token: dict[str, str]
) -> None:
    operations = [each.ok() for each in schemathesis.openapi.from_wsgi("/openapi.json", app).get_all_operations()]

    @effort(
        max_examples=250,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(some.data())
    def probe(data: Any) -> None:
        case = data.draw(data.draw(some.sampled_from(operations)).as_strategy())
        # It says that it accepts gzip, and unpacks none where there is no server.
        case.call_and_validate(headers={**token, "Accept-Encoding": "identity"}, checks=CHECKS)

    probe()


@effort(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=some.sampled_from(("/data", "/data/latest", "/assets", "/runs", "/runs/x/rejects", "/sources/", "/assets/")),
    name=some.sampled_from(("source", "asset", "symbol", "cursor", "fields", "run", "limit", "observed_from", "x")),
    value=some.one_of(some.binary(max_size=40), some.text(max_size=40).map(lambda it: it.encode(errors="replace"))),
    in_path=some.booleans(),
)
def test_no_bytes_in_a_path_or_a_query_break_it(
    api: FlaskClient, path: str, name: str, value: bytes, in_path: bool
) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in value)
    answer = api.get(f"{path}{quoted}" if in_path else f"{path}?{name}={quoted}")
    assert answer.status_code < 500
