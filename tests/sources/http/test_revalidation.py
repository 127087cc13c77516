"""Asking an upstream only for what changed: what is sent back to it, and what its answer then is."""

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

BODY = b'[{"id": "bitcoin"}]'
SUNDAY = "Sun, 01 Nov 2026 12:00:00 GMT"
KNOWN = KnownResponse('"v1"', SUNDAY, hashlib.sha256(BODY).digest(), "application/json", lambda: BODY)


@pytest.fixture
def serve(upstream: HTTPServer) -> Callable[..., list[Request]]:
    """Answers the requests in turn, the last answer for ever; gives the requests as they come in."""

    def serve(*answers: Response) -> list[Request]:
        asked: list[Request] = []

        def answer(request: Request) -> Response:
            asked.append(request)
            return answers[min(len(asked), len(answers)) - 1]

        upstream.expect_request("/tickers").respond_with_handler(answer)
        return asked

    return serve


def conditions(asked: Request) -> tuple[str | None, str | None]:
    return asked.headers.get("If-None-Match"), asked.headers.get("If-Modified-Since")


# What an answer says of itself


@pytest.mark.parametrize("etag", ['"a"', 'W/"5d41402abc4b2a76b9719d911017c592"', '""', f'"{"x" * 1000}"', '"*"'])
def test_an_etag_is_kept_as_it_came(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]], etag: str
) -> None:
    serve(Response(BODY, headers={"ETag": etag}))
    reply = client(upstream.url_for("")).get("/tickers")
    assert (reply.etag, reply.unchanged) == (etag, False)


@pytest.mark.parametrize(
    "etag",
    ["*", "a", '"a', 'w/"a"', '"a", "b"', '"a b"', f'"{"x" * 1001}"', '"a"\r\n b', '"\x07"', '"\xe9"', '"\x7f"', ""],
    ids=ascii,
)
def test_what_is_no_etag_is_not_kept(raw_upstream: Callable[..., RawServer], client: Clients, etag: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nETag: {etag}\r\n\r\n"
    server = raw_upstream(lambda _, connection: connection.sendall(head.encode("latin-1") + BODY))
    reply = client(server.url).get("/tickers")
    assert (reply.body, reply.etag) == (BODY, None)


@pytest.mark.parametrize(
    ("modified", "answered", "is_kept"),
    [
        (SUNDAY, "Sun, 01 Nov 2026 12:00:01 GMT", True),
        (SUNDAY, SUNDAY, False),  # it may have changed since, within that second
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
def test_a_time_of_change_is_kept_where_it_lies_before_the_answer(
    raw_upstream: Callable[..., RawServer], client: Clients, modified: str, answered: str, is_kept: bool
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nLast-Modified: {modified}\r\nDate: {answered}\r\n\r\n"
    server = raw_upstream(lambda _, connection: connection.sendall(head.encode() + BODY))
    assert client(server.url).get("/tickers").last_modified == (modified if is_kept else None)


# Asking again


@pytest.mark.parametrize(
    ("known", "sent"),
    [
        (KNOWN, ('"v1"', None)),
        (replace(KNOWN, etag=None), (None, SUNDAY)),
    ],
    ids=["etag", "time"],
)
def test_what_still_holds_is_the_body_that_is_kept(
    upstream: HTTPServer,
    client: Clients,
    serve: Callable[..., list[Request]],
    known: KnownResponse,
    sent: tuple[str | None, str | None],
) -> None:
    asked = serve(Response(status=304))
    http = client(upstream.url_for("")).knowing(lambda request: known)
    reply = http.get("/tickers")
    assert [conditions(request) for request in asked] == [sent]
    assert (reply.status, reply.body, reply.content_type) == (304, BODY, "application/json")
    assert (reply.etag, reply.last_modified, reply.unchanged) == (known.etag, known.last_modified, True)
    assert (client.spent, client.answers) == (1, [True])


@pytest.mark.parametrize(("body", "unchanged"), [(BODY, True), (BODY + b" ", False)])
def test_an_answer_that_comes_whole_is_unchanged_if_its_body_is(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]], body: bytes, unchanged: bool
) -> None:
    serve(Response(body, headers={"ETag": '"v2"'}))
    http = client(upstream.url_for("")).knowing(lambda request: KNOWN)
    reply = http.get("/tickers")
    assert (reply.status, reply.body, reply.etag, reply.unchanged) == (200, body, '"v2"', unchanged)


def test_each_request_is_asked_with_what_was_answered_to_it_and_no_other(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]]
) -> None:
    asked = serve(Response(BODY))
    requests: list[Mapping[str, Any]] = []

    def known(request: Mapping[str, Any]) -> KnownResponse | None:
        requests.append(request)
        return KNOWN if request["params"] == {"page": 2} else None

    http = client(upstream.url_for("")).knowing(known)
    replies = [http.get("/tickers", {"page": page}) for page in (1, 2)]
    assert [conditions(request) for request in asked] == [(None, None), ('"v1"', None)]
    assert requests == [reply.request for reply in replies]
    assert [reply.unchanged for reply in replies] == [False, True]


def test_a_body_that_was_deleted_meanwhile_is_asked_for_again(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]], quick_repeats: None
) -> None:
    asked = serve(Response(status=304), Response(BODY))
    http = client(upstream.url_for("")).knowing(
        lambda request: replace(KNOWN, body=lambda: None) if not asked else None
    )
    assert http.get("/tickers").body == BODY
    assert [conditions(request) for request in asked] == [('"v1"', None), (None, None)]


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize("known", [None, replace(KNOWN, etag=None, last_modified=None)], ids=["new", "no validator"])
def test_an_answer_that_nothing_changed_is_none_where_that_was_not_asked(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]], known: KnownResponse | None
) -> None:
    asked = serve(Response(status=304))
    http = client(upstream.url_for("")).knowing(lambda request: known)
    with pytest.raises(TransientError) as caught:
        http.get("/tickers")
    assert caught.value.detail == "example: answered 304 to GET /tickers, which had set no condition"
    assert (caught.value.code, len(asked)) == ("unexpected_status", 3)


def test_what_is_said_elsewhere_is_not_sent_there_or_back(
    upstream: HTTPServer, client: Clients, serve: Callable[..., list[Request]]
) -> None:
    """A validator is that of one URL; behind a redirect there may be another body with the same."""
    first: list[Request] = []

    def redirect(request: Request) -> Response:
        first.append(request)
        return Response(status=302, headers={"Location": "/tickers"})

    upstream.expect_request("/moved").respond_with_handler(redirect)
    asked = serve(Response(BODY, headers={"ETag": '"v2"', "Last-Modified": "Sat, 03 Jan 2009 18:15:05 GMT"}))
    http = client(upstream.url_for("")).knowing(lambda request: KNOWN)
    reply = http.get("/moved")
    assert (conditions(first[0]), conditions(asked[0])) == (('"v1"', None), (None, None))
    assert (reply.body, reply.etag, reply.last_modified, reply.unchanged) == (BODY, None, None, True)
    assert http.get("/tickers").last_modified == "Sat, 03 Jan 2009 18:15:05 GMT"


@pytest.mark.usefixtures("quick_repeats")
def test_an_upstream_that_hangs_up_is_asked_again_with_the_condition(
    raw_upstream: Callable[..., RawServer], client: Clients
) -> None:
    def hangs_up(server: RawServer, connection: socket.socket) -> None:
        if server.connections > 1:
            connection.sendall(b"HTTP/1.1 304 Not Modified\r\n\r\n")

    server = raw_upstream(hangs_up)
    http = client(server.url).knowing(lambda request: KNOWN)
    reply = http.get("/tickers")
    assert (reply.status, reply.body, server.connections) == (304, BODY, 2)
