"""Test that the client protects its key, retries transient errors, and reports to the circuit breaker."""

from __future__ import annotations

import gzip
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from sources.contract import TerminalError, TransientError
from tests.sources.conftest import HEAD, KEY, NOW, Clients, RawServer, RawUpstream, make_response, serve, within

# A successful response


def test_a_response_contains_the_body_and_the_request_but_not_the_key(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response(body='[{"price": 0.1}]'))
    response = client(upstream.url_for("")).get("/tickers", {"quotes": "USD,€", "page": 2})
    assert dict(requests[0].args) == {"quotes": "USD,€", "page": "2"}
    assert requests[0].headers["X-Key"] == KEY
    assert response.body == b'[{"price": 0.1}]'
    assert (response.status, response.content_type, response.fetched_at) == (200, "application/json", NOW)
    assert response.request == {
        "method": "GET",
        "url": upstream.url_for("/tickers"),
        "params": {"quotes": "USD,€", "page": 2},
    }
    assert KEY not in repr(response)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_decompressed(
    upstream: HTTPServer, client: Clients, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    serve(upstream, make_response(body=compress(b"[1, 2]"), Content_Encoding=encoding))
    assert client(upstream.url_for("")).get("/tickers").body == b"[1, 2]"


# Redirects and the key


def test_a_redirect_within_the_upstream_is_followed_with_the_key(upstream: HTTPServer, client: Clients) -> None:
    location = "/tickers?quotes=USD"
    html = f'<a href="{location}">Moved Permanently</a>.\n\n'
    upstream.expect_request("/tickers/").respond_with_data(
        html, 301, {"Location": location}, "text/html; charset=utf-8"
    )
    requests = serve(upstream, make_response())
    response = client(upstream.url_for("")).get("/tickers/", {"quotes": "USD"})
    assert response.body == b"[]"
    assert requests[0].url == upstream.url_for("/tickers?quotes=USD")
    assert requests[0].headers["X-Key"] == KEY
    assert client.spent == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["http://localhost:{other}/", "http://127.0.0.1:{other}/", "//127.0.0.1:{other}/x"]
)
def test_a_redirect_to_another_origin_is_not_followed(
    upstream: HTTPServer, another_upstream: HTTPServer, client: Clients, status: int, location: str
) -> None:
    serve(upstream, make_response(status, Location=location.format(other=another_upstream.port)))
    with pytest.raises(TerminalError, match="redirected to another origin") as caught:
        client(upstream.url_for("")).get("/tickers")
    assert another_upstream.log == []
    assert (caught.value.code, client.spent) == ("redirected", 1)


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:{port}/tickers",
        "https://127.0.0.1:{port}/tickers",
        "http://127.0.0.1:{port}@localhost/",
        "http://127.0.0.1/tickers",
        "ftp://127.0.0.1:{port}/",
    ],
)
def test_another_scheme_host_or_port_is_another_origin(upstream: HTTPServer, client: Clients, location: str) -> None:
    requests = serve(upstream, make_response(302, Location=location.format(port=upstream.port)))
    with pytest.raises(TerminalError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert (caught.value.code, len(requests)) == ("redirected", 1)


@pytest.mark.parametrize("location", ["http://[no-address/", "http://127.0.0.1:99999999/", "http://127.0.0.1:one/"])
def test_a_redirect_to_an_invalid_url_is_refused(raw_upstream: RawUpstream, client: Clients, location: str) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    server = raw_upstream(lambda _, connection: connection.sendall(head))
    with pytest.raises(TerminalError, match="redirected to an invalid URL") as caught:
        client(server.url).get("/tickers")
    assert (caught.value.code, server.connections) == ("redirected", 1)


def test_the_client_does_not_wait_for_the_body_of_a_redirect(raw_upstream: RawUpstream, client: Clients) -> None:
    def redirect(server: RawServer, connection: socket.socket) -> None:
        if server.connections == 1:
            connection.sendall(b"HTTP/1.1 301 Moved\r\nLocation: /tickers\r\nContent-Length: 100000000\r\n\r\n")
            server.trickle(connection, b" " * 1000)
        else:
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]")

    with within(3):
        assert client(raw_upstream(redirect).url).get("/tickers/").body == b"[]"


def test_a_redirect_loop_is_an_error(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response(302, Location="/tickers"))
    with pytest.raises(TerminalError, match="redirected more than 3 times") as caught:
        client(upstream.url_for("")).get("/tickers")
    assert (caught.value.code, len(requests), client.spent) == ("redirected", 4, 4)


@pytest.mark.parametrize("key_header", ["", "Authorization"])
def test_credentials_from_netrc_are_never_sent(
    upstream: HTTPServer, client: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key_header: str
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    requests = serve(upstream, make_response(301, Location="/tickers"), make_response())
    client(upstream.url_for(""), key_header=key_header).get("/tickers")
    assert [request.headers.get("Authorization") for request in requests] == [KEY if key_header else None] * 2


# Retries


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_a_request_is_retried_after_a_transient_error(upstream: HTTPServer, client: Clients, status: int) -> None:
    requests = serve(
        upstream, make_response(status, body=""), make_response(status, body=""), make_response(body="[1]")
    )
    assert client(upstream.url_for("")).get("/tickers").body == b"[1]"
    assert (len(requests), client.spent) == (3, 3)


def test_after_the_last_retry_the_error_is_raised(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response(500))
    with within(3), pytest.raises(TransientError) as caught:
        client(upstream.url_for(""), deadline=2).get("/tickers")
    assert caught.value.detail == "example: returned 500 for GET /tickers; it says “[]”"
    assert (caught.value.code, caught.value.retry_after) == ("upstream_unavailable", None)
    assert 2 <= len(requests) <= 3


def test_the_pauses_between_attempts_are_random_and_their_maximum_doubles(
    upstream: HTTPServer, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[float] = []

    def draw(low: float, high: float) -> float:
        ranges.append(high)
        return 0.2 * len(ranges) if low == 0 else 10

    monkeypatch.setattr("random.uniform", draw)
    arrivals: list[float] = []

    def fail(request: Request) -> Response:
        arrivals.append(time.monotonic())
        return make_response(500)

    upstream.expect_request("/tickers").respond_with_handler(fail)
    with pytest.raises(TransientError):
        client(upstream.url_for("")).get("/tickers")
    assert ranges == [1, 2]
    first, second, third = arrivals
    assert 0.2 <= second - first < third - second
    assert third - second >= 0.4


@pytest.mark.usefixtures("quick_retries")
def test_a_request_is_retried_after_a_dropped_connection(raw_upstream: RawUpstream, client: Clients) -> None:
    def drop_twice(server: RawServer, connection: socket.socket) -> None:
        if server.connections > 2:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    server = raw_upstream(drop_twice)
    assert client(server.url).get("/tickers").body == b"[]"
    assert server.connections == 3


def test_the_error_of_a_refused_connection_does_not_contain_the_key(client: Clients) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with within(2), pytest.raises(TransientError) as caught:
        client(url, deadline=1.5).get("/tickers")
    assert caught.value.detail == "example: GET /tickers failed: ConnectionError"
    assert caught.value.code == "upstream_unavailable"


# The rate limit, the budget and the circuit breaker


def test_each_request_is_counted_before_it_is_sent(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response())
    client.forbid = TransientError("used up", retry_after=7)
    with within(1), pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert caught.value is client.forbid
    assert requests == []


@pytest.mark.usefixtures("quick_retries")
def test_a_retry_blocked_by_our_own_limit_still_counts_as_a_failure_of_the_upstream(
    upstream: HTTPServer, client: Clients
) -> None:
    def fail(request: Request) -> Response:
        client.forbid = TransientError("all used up", code="rate_limited", retry_after=7, is_failure=False)
        return make_response(502)

    upstream.expect_request("/tickers").respond_with_handler(fail)
    with within(1), pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert caught.value.detail == "example: returned 502 for GET /tickers; it says “[]”; all used up"
    assert (caught.value.code, caught.value.retry_after, caught.value.is_failure) == ("upstream_unavailable", 7, True)
    assert client.spent == 1


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
def test_each_unavailable_status_counts_as_a_failure_for_the_breaker(
    upstream: HTTPServer, client: Clients, status: int
) -> None:
    serve(upstream, make_response(status), make_response(status), make_response())
    client(upstream.url_for("")).get("/tickers")
    assert client.outcomes == [False, False, True]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429, 451])
def test_a_refusal_counts_as_a_response_for_the_breaker(upstream: HTTPServer, client: Clients, status: int) -> None:
    serve(upstream, make_response(status, Retry_After="7"))
    with pytest.raises((TransientError, TerminalError)):
        client(upstream.url_for("")).get("/tickers")
    assert client.outcomes == [True]


def test_an_unusable_body_and_a_redirect_count_as_responses_for_the_breaker(
    upstream: HTTPServer, client: Clients
) -> None:
    serve(upstream, make_response(302, Location="/tickers"), make_response(body=KEY), make_response(body="x" * 100_001))
    http = client(upstream.url_for(""), max_body=100_000)
    with pytest.raises((TransientError, TerminalError)):
        http.get("/tickers")
    assert client.outcomes[:2] == [True, True]
    with pytest.raises(TerminalError):
        http.get("/tickers")
    assert all(client.outcomes)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "sent",
    [b"", b"this is no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["],
    ids=["nothing", "no HTTP", "half a body"],
)
def test_an_incomplete_response_counts_as_a_failure_for_the_breaker(
    raw_upstream: RawUpstream, client: Clients, sent: bytes
) -> None:
    server = raw_upstream(lambda _, connection: connection.sendall(sent))
    with pytest.raises(TransientError):
        client(server.url).get("/tickers")
    assert client.outcomes == [False] * 3


def test_an_unsent_request_is_not_reported_to_the_breaker(upstream: HTTPServer, client: Clients) -> None:
    client.forbid = TransientError("used up", retry_after=7, is_failure=False)
    with pytest.raises(TransientError):
        client(upstream.url_for("")).get("/tickers")
    assert client.outcomes == []
