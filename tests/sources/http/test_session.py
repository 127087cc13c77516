"""Test that each request names the client, its version and the operator's contact."""

from __future__ import annotations

import pytest
from pytest_httpserver import HTTPServer

from settings import VERSION
from tests.sources.conftest import Clients, make_response, serve


@pytest.mark.parametrize(
    ("contact", "expected"),
    [
        (None, f"kasparro/{VERSION}"),
        ("ops@example.com", f"kasparro/{VERSION} (+ops@example.com)"),
        ("https://example.com/bot", f"kasparro/{VERSION} (+https://example.com/bot)"),
    ],
)
def test_the_user_agent_names_the_client_and_its_contact(
    upstream: HTTPServer, client: Clients, contact: str | None, expected: str
) -> None:
    requests = serve(upstream, make_response())
    client(upstream.url_for(""), contact=contact).get("/tickers")
    assert [request.headers["User-Agent"] for request in requests] == [expected]
