"""Test that a request ends at its deadline, however slow its upstream is."""

from __future__ import annotations

import gzip
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from sources.contract import TransientError
from tests.sources.conftest import HEAD, Clients, RawServer, RawUpstream, within

DEADLINE = 0.4
MAX_SECONDS = 1.2
"""Maximum duration of a request on a busy machine, in seconds. The upstreams of these tests send for longer."""


@contextmanager
def ends_at_the_deadline(client: Clients) -> Iterator[None]:
    with within(MAX_SECONDS), pytest.raises(TransientError) as caught:
        yield
    assert caught.value.detail == f"example: no complete response within {DEADLINE:g} s"
    assert caught.value.code == "upstream_slow"
    assert client.outcomes[-1] is False


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 401 No\r\nX: ", b"HTTP/1.1 302 Found\r\nLocation: /"],
    ids=["status", "header", "refusal", "redirect"],
)
def test_slow_headers_end_at_the_deadline(raw_upstream: RawUpstream, client: Clients, start: bytes) -> None:
    def trickle(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(start)
        server.trickle(connection, b"y" * 1000)

    server = raw_upstream(trickle)
    with ends_at_the_deadline(client):
        client(server.url, deadline=DEADLINE).get("/tickers")
    assert client.spent == 1


def test_endless_interim_responses_end_at_the_deadline(raw_upstream: RawUpstream, client: Clients) -> None:
    server = raw_upstream(lambda server, connection: server.trickle(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 100))
    with ends_at_the_deadline(client):
        client(server.url, deadline=DEADLINE).get("/tickers")


@pytest.mark.parametrize("second_response", [b"HTTP/1.1 200 OK\r\nX: ", HEAD + b"Content-Length: 1000\r\n\r\n"])
def test_a_slow_response_on_a_reused_connection_ends_at_the_deadline(
    raw_upstream: RawUpstream, client: Clients, second_response: bytes
) -> None:
    def respond_once(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]")
        connection.recv(65536)
        connection.sendall(second_response)
        server.trickle(connection, b"y" * 1000)

    server = raw_upstream(respond_once)
    http = client(server.url, deadline=DEADLINE)
    assert http.get("/tickers").body == b"[]"
    with ends_at_the_deadline(client):
        http.get("/tickers")
    assert (server.connections, client.spent) == (1, 2)


def test_a_redirect_does_not_extend_the_deadline(raw_upstream: RawUpstream, client: Clients) -> None:
    def redirect_slowly(server: RawServer, connection: socket.socket) -> None:
        if server.connections > 1:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            server.trickle(connection, b"y" * 1000)
        else:
            server.trickle(connection, b"HTTP/1.1 ")
            connection.sendall(b"301 Moved\r\nLocation: /tickers\r\nConnection: close\r\n\r\n")

    server = raw_upstream(redirect_slowly)
    with ends_at_the_deadline(client):
        client(server.url, deadline=DEADLINE).get("/tickers/")
    assert server.connections == 2


def test_the_next_request_after_a_deadline_uses_a_new_connection(raw_upstream: RawUpstream, client: Clients) -> None:
    def trickle_once(server: RawServer, connection: socket.socket) -> None:
        if server.connections > 1:
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]")
        else:
            server.trickle(connection, b"y" * 1000)

    server = raw_upstream(trickle_once)
    http = client(server.url, deadline=DEADLINE)
    with ends_at_the_deadline(client):
        http.get("/tickers")
    assert http.get("/tickers").body == b"[]"


# Over TLS


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ssl.SSLContext:
    """Return the TLS context of a server whose certificate clients trust."""
    authority, bundle = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nX: ", HEAD + b"Content-Length: 1000\r\n\r\n", HEAD + b"Connection: close\r\n\r\n"],
    ids=["head", "body", "until closed"],
)
def test_a_slow_response_over_tls_ends_at_the_deadline(
    raw_upstream: RawUpstream, client: Clients, trusted: ssl.SSLContext, start: bytes
) -> None:
    def trickle(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(start)
        server.trickle(connection, b"y" * 1000)

    server = raw_upstream(trickle, tls=trusted)
    with ends_at_the_deadline(client):
        client(server.url, deadline=DEADLINE).get("/tickers")
    assert server.connections == 1


def test_a_response_over_tls_is_read(raw_upstream: RawUpstream, client: Clients, trusted: ssl.SSLContext) -> None:
    server = raw_upstream(lambda _, connection: connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]"), tls=trusted)
    assert client(server.url).get("/tickers").body == b"[]"


def test_an_untrusted_certificate_is_an_error(
    raw_upstream: RawUpstream, client: Clients, trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    server = raw_upstream(lambda _, connection: None, tls=trusted)
    with pytest.raises(TransientError) as caught:
        client(server.url, deadline=1).get("/tickers")
    assert caught.value.detail == "example: GET /tickers failed: SSLError"


def test_a_slow_handshake_ends_at_the_deadline(raw_upstream: RawUpstream, client: Clients) -> None:
    def trickle(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")  # The header of a 16 KB message.
        server.trickle(connection, b"\x02" + b"\x00" * 1000)

    server = raw_upstream(trickle, awaits=b"\x16\x03")
    with ends_at_the_deadline(client):
        client(server.url.replace("http:", "https:"), deadline=DEADLINE).get("/tickers")


# Slow bodies and connections


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
def test_a_slow_body_ends_at_the_deadline(raw_upstream: RawUpstream, client: Clients, head: bytes, body: bytes) -> None:
    def trickle(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(head)
        server.trickle(connection, body)

    server = raw_upstream(trickle)
    with within(MAX_SECONDS), pytest.raises(TransientError) as caught:
        client(server.url, deadline=DEADLINE).get("/tickers")
    assert caught.value.detail == f"example: no complete response within {DEADLINE:g} s"
    assert caught.value.code == "upstream_slow"
    assert client.spent == 1


@pytest.mark.parametrize("start", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\n[1,"], ids=["mute", "head", "body"])
def test_a_request_to_a_silent_upstream_ends_at_the_deadline(
    raw_upstream: RawUpstream, client: Clients, start: bytes
) -> None:
    def fall_silent(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(start)
        server.stopped.wait(30)

    server = raw_upstream(fall_silent)
    with within(MAX_SECONDS), pytest.raises(TransientError) as caught:
        client(server.url, deadline=DEADLINE).get("/tickers")
    assert caught.value.code == "upstream_slow"
    assert client.outcomes == [False]
    assert client.spent == 1


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("start", [b"", HEAD + b"Content-Length: 9\r\n\r\n[1,"], ids=["mute", "body"])
def test_a_request_to_a_silent_upstream_is_retried_long_before_the_deadline(
    raw_upstream: RawUpstream, client: Clients, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr("sources.http.exchange.READ_TIMEOUT", 0.2)

    def fall_silent(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(start)
        server.stopped.wait(30)

    server = raw_upstream(fall_silent)
    with within(3), pytest.raises(TransientError) as caught:
        client(server.url, deadline=20).get("/tickers")
    assert caught.value.code == "upstream_unavailable"
    assert server.connections == 3


@pytest.mark.usefixtures("quick_retries")
def test_a_connection_that_is_not_accepted_times_out_long_before_the_deadline(
    client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sources.http.exchange.CONNECT_TIMEOUT", 0.2)
    with full_listener() as url, within(3), pytest.raises(TransientError) as caught:
        client(url, deadline=20).get("/tickers")
    assert caught.value.detail == "example: GET /tickers failed: ConnectTimeout"
    assert client.outcomes == [False] * 3


@contextmanager
def full_listener() -> Iterator[str]:
    """Yield the URL of a server that accepts no connection because its queue is full."""
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_connection_that_is_not_accepted_times_out_at_the_deadline(client: Clients) -> None:
    with full_listener() as url, within(MAX_SECONDS), pytest.raises(TransientError):
        client(url, deadline=DEADLINE).get("/tickers")


def test_a_slow_response_that_is_complete_in_time_is_read(raw_upstream: RawUpstream, client: Clients) -> None:
    def trickle(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 6\r\n\r\n")
        server.trickle(connection, b"[1, 2]")

    assert client(raw_upstream(trickle).url).get("/tickers").body == b"[1, 2]"


def test_all_addresses_of_a_host_share_one_deadline(client: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.http.exchange.CONNECT_TIMEOUT", DEADLINE / 2)
    look_up = socket.getaddrinfo

    def ten_addresses(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        return look_up("127.0.0.1", *args, **kwargs) * (10 if host == "localhost" else 1)

    monkeypatch.setattr(socket, "getaddrinfo", ten_addresses)
    with full_listener() as url, ends_at_the_deadline(client):
        client(url.replace("127.0.0.1", "localhost"), deadline=DEADLINE).get("/tickers")


@pytest.mark.usefixtures("quick_retries")
def test_a_dead_address_of_a_host_is_skipped(
    raw_upstream: RawUpstream, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = raw_upstream(lambda _, connection: connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]"))
    look_up = socket.getaddrinfo

    def two_addresses(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        addresses = ("127.0.0.2", "127.0.0.1") if host == "localhost" else (host,)
        return [result for address in addresses for result in look_up(address, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    http = client(server.url.replace("127.0.0.1", "localhost"))
    assert http.get("/tickers").body == b"[]"
    assert (server.connections, client.spent) == (1, 1)
