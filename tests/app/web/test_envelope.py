"""Test the request id, the latency and the security headers of each response."""

from __future__ import annotations

import json

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from app.web.envelope import route


@pytest.mark.parametrize(
    ("body", "members"),
    [("{}", []), ("{ }", []), ('{"a": 1}\n', ["a"]), ('{"a": {"b": "}"}}', ["a"])],
)
def test_an_object_gets_the_members_of_the_envelope(app: Flask, body: str, members: list[str]) -> None:
    app.add_url_rule("/object", view_func=lambda: Response(body, mimetype="application/json"))
    response = app.test_client().get("/object", headers={"X-Request-ID": "mine"})
    parsed = json.loads(response.data)
    assert list(parsed) == [*members, "request_id", "api_latency_seconds"]
    assert parsed["request_id"] == "mine"


def test_an_array_is_not_changed(app: Flask) -> None:
    app.add_url_rule("/array", view_func=lambda: Response("[1]", mimetype="application/json"))
    assert app.test_client().get("/array").data == b"[1]"


@pytest.mark.parametrize("path", ["/health/live", "/nothing", "/docs"])
def test_every_response_has_the_security_headers(api: FlaskClient, path: str) -> None:
    headers = api.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(("path", "rule"), [("/runs/7", "/runs/<run>"), ("/nothing", "unmatched")])
def test_the_logged_route_is_the_url_rule_and_never_the_path(app: Flask, path: str, rule: str) -> None:
    with app.test_request_context(path):
        assert route() == rule
