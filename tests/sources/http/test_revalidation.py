"""Test that conditional requests send only usable validators, and that a 304 returns the stored body."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from sources.contract import TransientError
from sources.http.revalidation import KnownResponse
from tests.sources.conftest import Clients, RawServer
from tests.sources.conftest import serve as serve_responses

BODY = b'[{"id": "bitcoin"}]'
SUNDAY = "Sun, 01 Nov 2026 12:00:00 GMT"
KNOWN = KnownResponse('"v1"', SUNDAY, hashlib.sha256(BODY).digest(), "application/json", lambda: BODY)


@pytest.fixture
def serve(upstream: HTTPServer) -> Callable[..., list[Request]]:
    """Return a function that serves responses on /tickers and returns the list of requests."""
    return lambda *responses: serve_responses(upstream, *responses)


def conditions(request: Request) -> tuple[str | None, str | None]:
    return request.headers.get("If-None-Match"), request.headers.get("If-Modified-Since")


# The validators of a response


@pytest.mark.parametrize("etag", ['"a"', 'W/"5d41402abc4b2a76b9719d911017c592"', '""', f'"{"x" * 1000}"', '"*"'])
def test_a_valid_etag_is_returned(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]], etag: str
) -> None:
    serve(Response(BODY, headers={"ETag": etag}))
    response = client(upstream.url_for("")).get("/tickers")
    assert (response.etag, response.unchanged) == (etag, False)


@pytest.mark.parametrize(
    "etag",
    ["*", "a", '"a', 'w/"a"', '"a", "b"', '"a b"', f'"{"x" * 1001}"', '"a"\r\n b', '"\x07"', '"\xe9"', '"\x7f"', ""],
    ids=ascii,
)
def test_an_invalid_etag_is_ignored(raw_upstream: Callable[..., RawServer], client: Clients, etag: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nETag: {etag}\r\n\r\n"
    server = raw_upstream(lambda _, connection: connection.sendall(head.encode("latin-1") + BODY))
    response = client(server.url).get("/tickers")
    assert (response.body, response.etag) == (BODY, None)


@pytest.mark.parametrize(
    ("modified", "responded", "is_returned"),
    [
        (SUNDAY, "Sun, 01 Nov 2026 12:00:01 GMT", True),
        (SUNDAY, SUNDAY, False),  # The body may have changed later in the same second.
        (SUNDAY, "", False),
        ("Fri, 31 Dec 2999 23:59:59 GMT", SUNDAY, False),
        ("yesterday", SUNDAY, False),
        ("", SUNDAY, False),
        (f"{SUNDAY}{' ' * 40}x", "Sun, 01 Nov 2026 12:00:01 GMT", False),
        ("Sun, 01 Nov 99999 12:00:00 GMT", SUNDAY, False),
        (SUNDAY, "Sun, 01 Nov 2026 12:00:01 -0000", False),
    ],
    ids=["before", "at once", "undated", "2999", "words", "none", "long", "year", "no zone"],
)
def test_last_modified_is_returned_only_if_it_is_earlier_than_the_response(
    raw_upstream: Callable[..., RawServer], client: Clients, modified: str, responded: str, is_returned: bool
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nLast-Modified: {modified}\r\nDate: {responded}\r\n\r\n"
    server = raw_upstream(lambda _, connection: connection.sendall(head.encode() + BODY))
    assert client(server.url).get("/tickers").last_modified == (modified if is_returned else None)


# Conditional requests


@pytest.mark.parametrize(
    ("known", "sent"),
    [
        (KNOWN, ('"v1"', None)),
        (replace(KNOWN, etag=None), (None, SUNDAY)),
    ],
    ids=["etag", "time"],
)
def test_a_304_returns_the_stored_body(
    upstream: HTTPServer,
    client: Clients,
    serve: Callable[..., list[Request]],
    known: KnownResponse,
    sent: tuple[str | None, str | None],
) -> None:
    requests = serve(Response(status=304))
    http = client(upstream.url_for("")).with_known_responses(lambda request: known)
    response = http.get("/tickers")
    assert [conditions(request) for request in requests] == [sent]
    assert (response.status, response.body, response.content_type) == (304, BODY, "application/json")
    assert (response.etag, response.last_modified, response.unchanged) == (known.etag, known.last_modified, True)
    assert (client.spent, client.outcomes) == (1, [True])


@pytest.mark.parametrize(("body", "unchanged"), [(BODY, True), (BODY + b" ", False)])
def test_a_200_with_the_stored_body_counts_as_unchanged(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]], body: bytes, unchanged: bool
) -> None:
    serve(Response(body, headers={"ETag": '"v2"'}))
    http = client(upstream.url_for("")).with_known_responses(lambda request: KNOWN)
    response = http.get("/tickers")
    assert (response.status, response.body, response.etag, response.unchanged) == (200, body, '"v2"', unchanged)


def test_a_request_sends_only_the_validators_of_its_own_last_response(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]]
) -> None:
    requests = serve(Response(BODY))
    requests_looked_up: list[Mapping[str, Any]] = []

    def known(request: Mapping[str, Any]) -> KnownResponse | None:
        requests_looked_up.append(request)
        return KNOWN if request["params"] == {"page": 2} else None

    http = client(upstream.url_for("")).with_known_responses(known)
    responses = [http.get("/tickers", {"page": page}) for page in (1, 2)]
    assert [conditions(request) for request in requests] == [(None, None), ('"v1"', None)]
    assert requests_looked_up == [response.request for response in responses]
    assert [response.unchanged for response in responses] == [False, True]


def test_a_304_for_a_deleted_body_is_followed_by_an_unconditional_request(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]], quick_retries: None
) -> None:
    requests = serve(Response(status=304), Response(BODY))
    http = client(upstream.url_for("")).with_known_responses(
        lambda request: replace(KNOWN, body=lambda: None) if not requests else None
    )
    assert http.get("/tickers").body == BODY
    assert [conditions(request) for request in requests] == [('"v1"', None), (None, None)]


@pytest.mark.usefixtures("quick_retries")
def test_a_deleted_body_is_not_blamed_on_the_upstream(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]]
) -> None:
    serve(Response(status=304))
    http = client(upstream.url_for("")).with_known_responses(lambda _: replace(KNOWN, body=lambda: None))
    with pytest.raises(TransientError, match="has just been deleted") as caught:
        http.get("/tickers")
    assert caught.value.code == "body_deleted"


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("known", [None, replace(KNOWN, etag=None, last_modified=None)], ids=["new", "no validator"])
def test_a_304_for_an_unconditional_request_is_an_error(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]], known: KnownResponse | None
) -> None:
    requests = serve(Response(status=304))
    http = client(upstream.url_for("")).with_known_responses(lambda request: known)
    with pytest.raises(TransientError) as caught:
        http.get("/tickers")
    assert caught.value.detail == "example: returned 304 for GET /tickers, although the request was not conditional"
    assert (caught.value.code, len(requests)) == ("unexpected_status", 3)


def test_validators_are_neither_sent_to_nor_taken_from_a_redirect_target(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]]
) -> None:
    """A validator belongs to one URL. The redirect target may use an equal validator for another body."""
    redirected: list[Request] = []

    def redirect(request: Request) -> Response:
        redirected.append(request)
        return Response(status=302, headers={"Location": "/tickers"})

    upstream.expect_request("/moved").respond_with_handler(redirect)
    requests = serve(Response(BODY, headers={"ETag": '"v2"', "Last-Modified": "Sat, 03 Jan 2009 18:15:05 GMT"}))
    http = client(upstream.url_for("")).with_known_responses(lambda request: KNOWN)
    response = http.get("/moved")
    assert (conditions(redirected[0]), conditions(requests[0])) == (('"v1"', None), (None, None))
    assert (response.body, response.etag, response.last_modified, response.unchanged) == (BODY, None, None, True)
    assert http.get("/tickers").last_modified == "Sat, 03 Jan 2009 18:15:05 GMT"


@pytest.mark.usefixtures("quick_retries")
def test_a_retry_is_conditional_too(raw_upstream: Callable[..., RawServer], client: Clients) -> None:
    def hang_up(server: RawServer, connection: socket.socket) -> None:
        if server.connections > 1:
            connection.sendall(b"HTTP/1.1 304 Not Modified\r\n\r\n")

    server = raw_upstream(hang_up)
    http = client(server.url).with_known_responses(lambda request: KNOWN)
    response = http.get("/tickers")
    assert (response.status, response.body, server.connections) == (304, BODY, 2)
