"""What an upstream may do to us, and where its key may go."""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import backoff
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from settings import SettingsError
from sources.coingecko import source as coingecko
from sources.contract import TerminalError, TransientError
from sources.http import address
from sources.json_body import json_list
from tests.sources.conftest import KEY, NOW, Clients, RawServer
from tests.upstreams import canned

RawUpstream = Callable[[Callable[[RawServer, socket.socket], None]], RawServer]


def serve(upstream: HTTPServer, *answers: Response) -> list[Request]:
    """Answer the requests in turn, the last answer for ever; gives the requests as they come in."""
    asked: list[Request] = []

    def answer(request: Request) -> Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    upstream.expect_request("/tickers").respond_with_handler(answer)
    return asked


@pytest.fixture
def quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the chance out of the library's pauses, and most of their length."""
    monkeypatch.setattr(backoff, "full_jitter", lambda seconds: seconds / 100)


def answer(status: int = 200, body: str | bytes = "[]", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, named, content_type="application/json")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


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


@pytest.mark.parametrize(
    ("encoding", "packed"), [("gzip", gzip.compress(b"[1, 2]")), ("deflate", zlib.compress(b"[1, 2]"))]
)
def test_a_packed_body_is_unpacked(upstream: HTTPServer, client: Clients, encoding: str, packed: bytes) -> None:
    serve(upstream, answer(body=packed, Content_Encoding=encoding))
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

    with within(ENOUGH):
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


# What is refused


@pytest.mark.parametrize(
    ("status", "code", "pause"),
    [
        (400, "upstream_refused", None),
        (401, "key_refused", timedelta(hours=1)),
        (402, "payment_required", timedelta(days=1)),
        (403, "key_refused", timedelta(hours=1)),
        (404, "upstream_refused", None),
        (422, "upstream_refused", None),
        (204, "upstream_refused", None),
        (301, "upstream_refused", None),
        (451, "upstream_refused", None),
    ],
)
def test_a_refusal_is_asked_for_once_and_names_source_status_and_path_and_no_secret(
    upstream: HTTPServer, client: Clients, status: int, code: str, pause: timedelta | None
) -> None:
    asked = serve(upstream, answer(status, body=f'{{"error": "{KEY} is wrong"}}', Retry_After="0"))
    with pytest.raises(TerminalError) as caught:
        client(upstream.url_for("")).get("/tickers", {"quotes": "USD"})
    assert len(asked) == 1
    assert caught.value.detail == f"example: answered {status} to GET /tickers"
    assert (caught.value.code, caught.value.pause) == (code, pause)


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


# Retry-After


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("53", 53, 53),
        (" 7 ", 7, 7),
        ("1", 1, 1),
        ("in an hour", 3590, 3600),
        ("21600", 21600, 21600),
        ("9" * 500, 21600, 21600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 21600, 21600),
    ],
    ids=["seconds", "spaces", "one", "date", "6 hours", "huge", "far date"],
)
def test_who_names_a_time_is_not_asked_again_before_it(
    upstream: HTTPServer, client: Clients, status: int, header: str, least: float, most: float
) -> None:
    if header == "in an hour":
        header = in_seconds(3600)
    asked = serve(upstream, answer(status, Retry_After=header))
    with within(1), pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert len(asked) == 1
    assert caught.value.retry_after is not None
    assert least <= caught.value.retry_after <= most
    assert caught.value.code == ("rate_limited" if status == 429 else "upstream_unavailable")


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize(
    "header",
    [None, "", "0", "-5", "1.5", "soon", "9" * 5000, in_seconds(-60), "Fri, 31 Dec 99999 23:59:59 GMT"],
    ids=lambda header: ascii(header)[:20],
)
def test_who_names_no_useful_time_is_asked_again_after_a_moment(
    upstream: HTTPServer, client: Clients, header: str | None
) -> None:
    asked = serve(upstream, answer(429, **({} if header is None else {"Retry_After": header})))
    with pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert len(asked) == 3
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after is None


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


# Bodies that are not what they should be

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 100\r\n\r\n[1, 2]",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n6\r\n[1, 2]\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\n[1, 2]",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n[1, 2]\r\n0\r\n\r\n",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\n[1, 2]",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n[]",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n[]",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n[]",
    ],
    ids=["half", "no last chunk", "half a chunk", "no size", "no gzip", "two lengths", "no HTTP", "headers", "header"],
)
def test_a_broken_answer_is_never_a_reply(raw_upstream: RawUpstream, client: Clients, answer: bytes) -> None:
    server = raw_upstream(lambda _, connection: connection.sendall(answer))
    with pytest.raises(TransientError) as caught:
        client(server.url).get("/tickers")
    assert caught.value.code == "upstream_unavailable"
    assert caught.value.detail.startswith("example: GET /tickers failed: ")
    assert server.connections == 3


def test_a_packed_body_that_was_cut_is_no_page(upstream: HTTPServer, client: Clients) -> None:
    packed = gzip.compress(b"[" + b"1, " * 1000 + b"1]")
    for cut in (1, 8, len(packed) // 2, len(packed) - 1):
        serve(upstream, answer(body=packed[:-cut], Content_Encoding="gzip"))
        http = client(upstream.url_for(""))
        if cut <= 8:  # only its checksum is gone
            assert len(json_list(http.get("/tickers").body)) == 1001
        else:
            with pytest.raises(TransientError):
                json_list(http.get("/tickers").body)
        upstream.clear()


def test_a_body_may_be_as_large_as_the_cap_and_no_larger(upstream: HTTPServer, client: Clients) -> None:
    asked = serve(upstream, answer(body="x" * 100_000))
    assert len(client(upstream.url_for(""), max_body=100_000).get("/tickers").body) == 100_000
    with pytest.raises(TerminalError, match="larger than 99999 bytes") as caught:
        client(upstream.url_for(""), max_body=99_999).get("/tickers")
    assert (caught.value.code, len(asked)) == ("body_too_large", 2)


@pytest.mark.parametrize("times", [1, 2])
def test_a_packed_bomb_is_given_up_before_it_fills_the_memory(
    upstream: HTTPServer, client: Clients, times: int
) -> None:
    bomb = b"\0" * 100_000_000
    for _ in range(times):
        bomb = gzip.compress(bomb, 1)
    serve(upstream, answer(body=bomb, Content_Encoding=", ".join(["gzip"] * times)))
    tracemalloc.start()
    try:
        with pytest.raises(TerminalError) as caught:
            client(upstream.url_for("")).get("/tickers")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "body_too_large"
    assert peak < 20_000_000


# Upstreams that are slow

DEADLINE = 0.4
ENOUGH = 1.2
"""Seconds within which all is over on a busy machine; every one of these upstreams would go on for longer."""


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" " * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 200),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 1000),
        (HEAD + b"Connection: close\r\n\r\n", b" " * 1000),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n", gzip.compress(bytes(range(256)) * 4)),
    ],
    ids=["length", "chunks", "chunk size", "until closed", "gzip"],
)
def test_a_body_that_trickles_ends_at_the_deadline(
    raw_upstream: RawUpstream, client: Clients, head: bytes, body: bytes
) -> None:
    def trickles(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(head)
        server.trickle(connection, body)

    server = raw_upstream(trickles)
    with within(ENOUGH), pytest.raises(TransientError) as caught:
        client(server.url, deadline=DEADLINE).get("/tickers")
    assert caught.value.detail == f"example: no whole answer within {DEADLINE:g} s"
    assert caught.value.code == "upstream_slow"
    assert client.spent == 1


@pytest.mark.parametrize("begins", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\n[1,"], ids=["mute", "head", "body"])
def test_an_upstream_that_falls_silent_is_left_at_the_deadline(
    raw_upstream: RawUpstream, client: Clients, begins: bytes
) -> None:
    def falls_silent(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(begins)
        server.over.wait(30)

    server = raw_upstream(falls_silent)
    with within(ENOUGH), pytest.raises(TransientError) as caught:
        client(server.url, deadline=DEADLINE).get("/tickers")
    assert caught.value.code == "upstream_slow"
    assert client.answers == [False]
    assert client.spent == 1


@pytest.mark.usefixtures("quick_repeats")
@pytest.mark.parametrize("begins", [b"", HEAD + b"Content-Length: 9\r\n\r\n[1,"], ids=["mute", "body"])
def test_an_upstream_that_falls_silent_is_asked_again_long_before_the_deadline(
    raw_upstream: RawUpstream, client: Clients, monkeypatch: pytest.MonkeyPatch, begins: bytes
) -> None:
    monkeypatch.setattr("sources.http.READ_TIMEOUT", 0.2)

    def falls_silent(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(begins)
        server.over.wait(30)

    server = raw_upstream(falls_silent)
    with within(3), pytest.raises(TransientError) as caught:
        client(server.url, deadline=20).get("/tickers")
    assert caught.value.code == "upstream_unavailable"
    assert server.connections == 3


@pytest.mark.usefixtures("quick_repeats")
def test_an_upstream_that_takes_no_connection_is_left_long_before_the_deadline(
    client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sources.http.CONNECT_TIMEOUT", 0.2)
    with full_listener() as url, within(3), pytest.raises(TransientError) as caught:
        client(url, deadline=20).get("/tickers")
    assert caught.value.detail == "example: GET /tickers failed: ConnectTimeout"
    assert client.answers == [False] * 3


@contextmanager
def full_listener() -> Iterator[str]:
    """The address of one who takes no connection, since the queue of those who want one is full."""
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_upstream_that_takes_no_connection_is_left_at_the_deadline(client: Clients) -> None:
    with full_listener() as url, within(ENOUGH), pytest.raises(TransientError):
        client(url, deadline=DEADLINE).get("/tickers")


def test_a_slow_answer_that_comes_in_time_is_a_reply(raw_upstream: RawUpstream, client: Clients) -> None:
    def trickles(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 6\r\n\r\n")
        server.trickle(connection, b"[1, 2]")

    assert client(raw_upstream(trickles).url).get("/tickers").body == b"[1, 2]"


def test_an_answer_that_repeats_our_key_is_not_kept(upstream: HTTPServer, client: Clients) -> None:
    upstream.expect_request("/tickers").respond_with_data(f'[{{"id": "coin", "name": "for {KEY}"}}]')
    with pytest.raises(TransientError) as raised:
        client(upstream.url_for("").rstrip("/")).get("/tickers")
    assert raised.value.code == "unexpected_body"
    assert KEY not in str(raised.value)


# Which plan, which address, which key


@pytest.mark.parametrize(
    ("environ", "url", "headers"),
    [
        ({}, "https://api.coingecko.com/api/v3", {}),
        ({"API_KEY": KEY}, "https://api.coingecko.com/api/v3", {"x-cg-demo-api-key": KEY}),
        ({"API_KEY": KEY, "PLAN": "pro"}, "https://pro-api.coingecko.com/api/v3", {"x-cg-pro-api-key": KEY}),
        ({"PLAN": "free"}, "https://api.coingecko.com/api/v3", {}),
        ({"PLAN": " ", "API_KEY": ""}, "https://api.coingecko.com/api/v3", {}),
        ({"API_KEY": KEY, "URL": "http://127.0.0.1:1/"}, "http://127.0.0.1:1", {"x-cg-demo-api-key": KEY}),
    ],
)
def test_a_plan_has_an_address_and_a_header_for_its_key(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str, headers: dict[str, str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"COINGECKO_{name}", value)
    assert address(coingecko) == (url, headers)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"PLAN": "gold"}, "COINGECKO_PLAN or COINGECKO_API_KEY: no plan fits them; the plans are: free, demo, pro."),
        ({"PLAN": "pro"}, "COINGECKO_API_KEY: the plan 'pro' needs a key."),
        ({"PLAN": "free", "API_KEY": KEY}, "COINGECKO_API_KEY: the plan 'free' takes no key."),
    ],
)
def test_a_plan_and_a_key_that_do_not_fit_are_said_before_any_call(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], says: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"COINGECKO_{name}", value)
    with pytest.raises(SettingsError) as caught:
        address(coingecko)
    assert str(caught.value) == says


def test_a_source_without_upstreams_has_no_address_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANNED_API_KEY", KEY)
    assert address(canned()) == ("", {})
