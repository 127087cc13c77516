"""Test that the documentation pages load only files that the API serves."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.web.docs import SWAGGER_UI


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_documentation_page_loads_only_files_that_the_api_serves(api: FlaskClient, path: str) -> None:
    page = api.get(path)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href|spec-url|data-document)="([^"]+)"', page.text)
    assert len(loaded) >= 4
    for address in loaded:
        assert address.startswith("/")
        assert api.get(address, buffered=True).status_code == 200
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son\w+=", page.text)


def test_redoc_has_the_checksum_of_its_version_file(app: Flask) -> None:
    folder = Path(app.root_path, "static", "redoc")
    [checksum] = re.findall(r"sha256: (\w{64})", (folder / "VERSION.txt").read_text())
    assert hashlib.sha256((folder / "redoc.standalone.js").read_bytes()).hexdigest() == checksum


def test_the_root_redirects_to_the_documentation(api: FlaskClient) -> None:
    assert api.get("/").headers["Location"] == "/docs"


def test_an_unknown_error_code_is_a_404_that_suggests_the_nearest_code(api: FlaskClient) -> None:
    response: Any = api.get("/problems/not_fond")
    assert (response.status_code, response.json["detail"]) == (
        404,
        "There is no problem code 'not_fond'; did you mean 'not_found'?",
    )


def test_an_error_code_is_described_with_its_next_step(api: FlaskClient) -> None:
    response: Any = api.get("/problems/unknown_source")
    assert response.json["title"] == "Unknown source"
    assert response.json["hint"] == "List the sources with `GET /sources`."


def test_only_listed_files_of_swagger_ui_are_served(api: FlaskClient) -> None:
    assert (SWAGGER_UI / "swagger-ui.js").is_file()
    assert api.get("/docs/assets/swagger-ui.js").status_code == 404
