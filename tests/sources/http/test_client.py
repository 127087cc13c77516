"""How an upstream is asked: where its key may go, when it is asked again, and who is told."""

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
from tests.sources.conftest import HEAD, KEY, NOW, Clients, RawServer, RawUpstream, answer, serve, within

# A good answer


def test_a_reply_holds_the_body_and_the_request_but_no_key(upstream: HTTPServer, client: Clients) -> None:
    asked = serve(upstream, answer(body='[{"price": 0.1}]'))
    reply = client(upstream.url_for("")).get("/tickers", {"quotes": "USD,€", "page": 2})
    assert dict(asked[0].args) == {"quotes": "USD,€", "page": "2"}
    assert asked[0].headers["X-Key"] == KEY
    assert reply.body == b'[{"price": 0.1}]'
    assert (reply.status, reply.content_type, reply.fetched_at) == (200, "application/json", NOW)
    assert reply.request == {
        "method": "GET",
        "url": upstream.url_for("/tickers"),
        "params": {"quotes": "USD,€", "page": 2},
    }
    assert KEY not in repr(reply)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_packed_body_is_unpacked(
    upstream: HTTPServer, client: Clients, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    serve(upstream, answer(body=pack(b"[1, 2]"), Content_Encoding=encoding))
    assert client(upstream.url_for("")).get("/tickers").body == b"[1, 2]"


# Where the key goes


def test_a_redirect_within_the_upstream_is_followed_with_the_key(upstream: HTTPServer, client: Clients) -> None:
    location = "/tickers?quotes=USD"
    html = f'<a href="{location}">Moved Permanently</a>.\n\n'
    upstream.expect_request("/tickers/").respond_with_data(
        html, 301, {"Location": location}, "text/html; charset=utf-8"
    )
    asked = serve(upstream, answer())
    reply = client(upstream.url_for("")).get("/tickers/", {"quotes": "USD"})
    assert reply.body == b"[]"
    assert asked[0].url == upstream.url_for("/tickers?quotes=USD")
    assert asked[0].headers["X-Key"] == KEY
    assert client.spent == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["http://localhost:{other}/", "http://127.0.0.1:{other}/", "//127.0.0.1:{other}/x"])
def test_a_redirect_to_another_origin_is_not_followed(
    upstream: HTTPServer, another_upstream: HTTPServer, client: Clients, status: int, where: str
) -> None:
    serve(upstream, answer(status, Location=where.format(other=another_upstream.port)))
    with pytest.raises(TerminalError, match="redirected to another origin") as caught:
        client(upstream.url_for("")).get("/tickers")
    assert another_upstream.log == []
    assert (caught.value.code, client.spent) == ("redirected", 1)


@pytest.mark.parametrize(
    "where",
    [
        "http://localhost:{port}/tickers",
        "https://127.0.0.1:{port}/tickers",
        "http://127.0.0.1:{port}@localhost/",
        "http://127.0.0.1/tickers",
        "ftp://127.0.0.1:{port}/",
    ],
)
def test_only_the_same_scheme_host_and_port_are_the_upstream(upstream: HTTPServer, client: Clients, where: str) -> None:
    asked = serve(upstream, answer(302, Location=where.format(port=upstream.port)))
    with pytest.raises(TerminalError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert (caught.value.code, len(asked)) == ("redirected", 1)


@pytest.mark.parametrize("where", ["http://[no-address/", "http://127.0.0.1:99999999/", "http://127.0.0.1:one/"])
def test_a_redirect_to_what_is_no_url_is_refused(raw_upstream: RawUpstream, client: Clients, where: str) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()
    server = raw_upstream(lambda _, connection: connection.sendall(head))
    with pytest.raises(TerminalError, match="redirected to what is no URL") as caught:
        client(server.url).get("/tickers")
    assert (caught.value.code, server.connections) == ("redirected", 1)


def test_the_body_of_a_redirect_is_not_waited_for(raw_upstream: RawUpstream, client: Clients) -> None:
    def redirects(server: RawServer, connection: socket.socket) -> None:
        if server.connections == 1:
            connection.sendall(b"HTTP/1.1 301 Moved\r\nLocation: /tickers\r\nContent-Length: 100000000\r\n\r\n")
            server.trickle(connection, b" " * 1000)
        else:
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]")

    with within(3):
        assert client(raw_upstream(redirects).url).get("/tickers/").body == b"[]"


def test_redirects_in_a_circle_end(upstream: HTTPServer, client: Clients) -> None:
    asked = serve(upstream, answer(302, Location="/tickers"))
    with pytest.raises(TerminalError, match="redirected more than 3 times") as caught:
        client(upstream.url_for("")).get("/tickers")
    assert (caught.value.code, len(asked), client.spent) == ("redirected", 4, 4)


@pytest.mark.parametrize("key_header", ["", "Authorization"])
def test_a_login_of_the_users_netrc_is_never_sent(
    upstream: HTTPServer, client: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key_header: str
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    asked = serve(upstream, answer(301, Location="/tickers"), answer())
    client(upstream.url_for(""), key_header=key_header).get("/tickers")
    assert [request.headers.get("Authorization") for request in asked] == [KEY if key_header else None] * 2


# What may pass


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_what_may_pass_is_asked_for_again_and_then_succeeds(upstream: HTTPServer, client: Clients, status: int) -> None:
    asked = serve(upstream, answer(status, body=""), answer(status, body=""), answer(body="[1]"))
    assert client(upstream.url_for("")).get("/tickers").body == b"[1]"
    assert (len(asked), client.spent) == (3, 3)


def test_what_does_not_pass_is_given_back_to_the_run(upstream: HTTPServer, client: Clients) -> None:
    asked = serve(upstream, answer(500))
    with within(3), pytest.raises(TransientError) as caught:
        client(upstream.url_for(""), deadline=2).get("/tickers")
    assert caught.value.detail == "example: answered 500 to GET /tickers"
    assert (caught.value.code, caught.value.retry_after) == ("upstream_unavailable", None)
    assert 2 <= len(asked) <= 3


def test_the_pauses_between_repeats_are_drawn_from_a_range_that_doubles(
    upstream: HTTPServer, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[float] = []

    def draw(low: float, high: float) -> float:
        ranges.append(high)
        return 0.2 * len(ranges) if low == 0 else 10

    monkeypatch.setattr("random.uniform", draw)
    arrivals: list[float] = []

    def fails(request: Request) -> Response:
        arrivals.append(time.monotonic())
        return answer(500)

    upstream.expect_request("/tickers").respond_with_handler(fails)
    with pytest.raises(TransientError):
        client(upstream.url_for("")).get("/tickers")
    assert ranges == [1, 2]
    first, second, third = arrivals
    assert 0.2 <= second - first < third - second
    assert third - second >= 0.4


@pytest.mark.usefixtures("quick_repeats")
def test_a_dropped_connection_is_asked_again(raw_upstream: RawUpstream, client: Clients) -> None:
    def drops_two(server: RawServer, connection: socket.socket) -> None:
        if server.connections > 2:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    server = raw_upstream(drops_two)
    assert client(server.url).get("/tickers").body == b"[]"
    assert server.connections == 3


def test_an_upstream_that_is_not_there_is_said_without_its_key(client: Clients) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with within(2), pytest.raises(TransientError) as caught:
        client(url, deadline=1.5).get("/tickers")
    assert caught.value.detail == "example: GET /tickers failed: ConnectionError"
    assert caught.value.code == "upstream_unavailable"


# The rate, the budget and the circuit breaker


def test_each_single_request_is_spent_before_it_is_made(upstream: HTTPServer, client: Clients) -> None:
    asked = serve(upstream, answer())
    client.forbid = TransientError("used up", retry_after=7)
    with within(1), pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert caught.value is client.forbid
    assert asked == []


@pytest.mark.usefixtures("quick_repeats")
def test_a_repeat_that_our_own_limit_forbids_leaves_the_failure_what_it_was(
    upstream: HTTPServer, client: Clients
) -> None:
    def fails(request: Request) -> Response:
        client.forbid = TransientError("all used up", code="rate_limited", retry_after=7, is_failure=False)
        return answer(502)

    upstream.expect_request("/tickers").respond_with_handler(fails)
    with within(1), pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert caught.value.detail == "example: answered 502 to GET /tickers; all used up"
    assert (caught.value.code, caught.value.retry_after, caught.value.is_failure) == ("upstream_unavailable", 7, True)
    assert client.spent == 1


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
def test_the_breaker_is_told_of_each_request_that_the_host_could_not_answer(
    upstream: HTTPServer, client: Clients, status: int
) -> None:
    serve(upstream, answer(status), answer(status), answer())
    client(upstream.url_for("")).get("/tickers")
    assert client.answers == [False, False, True]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429, 451])
def test_a_refusal_is_an_answer_to_the_breaker(upstream: HTTPServer, client: Clients, status: int) -> None:
    serve(upstream, answer(status, Retry_After="7"))
    with pytest.raises((TransientError, TerminalError)):
        client(upstream.url_for("")).get("/tickers")
    assert client.answers == [True]


def test_so_is_a_body_that_is_too_large_or_says_our_key_back_and_a_redirect(
    upstream: HTTPServer, client: Clients
) -> None:
    serve(upstream, answer(302, Location="/tickers"), answer(body=KEY), answer(body="x" * 100_001))
    http = client(upstream.url_for(""), max_body=100_000)
    with pytest.raises((TransientError, TerminalError)):
        http.get("/tickers")
    assert client.answers[:2] == [True, True]
    with pytest.raises(TerminalError):
        http.get("/tickers")
    assert all(client.answers)


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize(
    "says",
    [b"", b"this is no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["],
    ids=["nothing", "no HTTP", "half a body"],
)
def test_what_is_no_whole_answer_is_none_to_the_breaker(
    raw_upstream: RawUpstream, client: Clients, says: bytes
) -> None:
    server = raw_upstream(lambda _, connection: connection.sendall(says))
    with pytest.raises(TransientError):
        client(server.url).get("/tickers")
    assert client.answers == [False] * 3


def test_a_request_that_is_not_made_is_no_news_to_the_breaker(upstream: HTTPServer, client: Clients) -> None:
    client.forbid = TransientError("used up", retry_after=7, is_failure=False)
    with pytest.raises(TransientError):
        client(upstream.url_for("")).get("/tickers")
    assert client.answers == []
