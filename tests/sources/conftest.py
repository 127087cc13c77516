"""Upstreams on loopback, well-behaved and not, and clients that speak with them."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import backoff
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from sources.http.client import Access, HttpClient

KEY = "s3cret-key-of-an-upstream"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def serve(upstream: HTTPServer, *answers: Response) -> list[Request]:
    """Answer the requests in turn, the last answer for ever; gives the requests as they come in."""
    asked: list[Request] = []

    def answer(request: Request) -> Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    upstream.expect_request("/tickers").respond_with_handler(answer)
    return asked


def answer(status: int = 200, body: str | bytes = "[]", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, named, content_type="application/json")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.fixture
def quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the chance out of the library's pauses, and most of their length."""
    monkeypatch.setattr(backoff, "full_jitter", lambda seconds: seconds / 100)


@pytest.fixture(scope="session")
def two_upstreams() -> Iterator[tuple[HTTPServer, HTTPServer]]:
    """For the session: it takes half a second to stop one."""
    with HTTPServer(host="127.0.0.1", threaded=True) as one, HTTPServer(host="127.0.0.1", threaded=True) as other:
        yield one, other


@pytest.fixture
def upstream(two_upstreams: tuple[HTTPServer, HTTPServer]) -> HTTPServer:
    two_upstreams[0].clear()
    return two_upstreams[0]


@pytest.fixture
def another_upstream(two_upstreams: tuple[HTTPServer, HTTPServer]) -> HTTPServer:
    two_upstreams[1].clear()
    return two_upstreams[1]


@dataclass
class Clients:
    """Makes clients, and counts what they spend. forbid: raised in place of spending, where it is set.

    answers: for each request, whether it was told to have been answered.
    """

    spent: int = 0
    answers: list[bool] = field(default_factory=list)
    forbid: Exception | None = None
    closing: ExitStack = field(default_factory=ExitStack)

    def __call__(
        self, url: str, *, deadline: float = 4, max_body: int = 1_000_000, key_header: str = "X-Key"
    ) -> HttpClient:
        access = Access(
            source="example",
            url=url.rstrip("/"),
            headers={key_header: KEY} if key_header else {},
            deadline=deadline,
            max_body=max_body,
            spend=self.spend,
            answered=self.answers.append,
            clock=lambda: NOW,
        )
        client = HttpClient(access)
        self.closing.callback(client.close)
        return client

    def spend(self) -> None:
        if self.forbid:
            raise self.forbid
        self.spent += 1


@pytest.fixture
def client() -> Iterator[Clients]:
    clients = Clients()
    with clients.closing:
        yield clients


@dataclass
class RawServer:
    """Answers each connection, once it has sent what is awaited, with what `answer` does to the socket.

    tls: what the server speaks TLS with, if it does.
    """

    answer: Callable[[socket.socket], None]
    tls: ssl.SSLContext | None = None
    awaits: bytes = b"\r\n\r\n"
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._speak, args=[connection], daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self.tls is None:
                return self._answer(connection)
            with self.tls.wrap_socket(connection, server_side=True) as secured:
                self._answer(secured)

    def _answer(self, connection: socket.socket) -> None:
        said = b""
        while self.awaits not in said:
            received = connection.recv(65536)
            if not received:
                return
            said += received
        self.answer(connection)

    def trickle(self, connection: socket.socket, text: bytes) -> None:
        """Send a byte every 20 ms, for as long as the test lasts."""
        for byte in text:
            connection.sendall(bytes([byte]))
            if self.over.wait(0.02):
                return

    def close(self) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


RawUpstream = Callable[..., RawServer]


@pytest.fixture
def raw_upstream() -> Iterator[RawUpstream]:
    """Starts a server whose answers are written byte by byte: raw_upstream(lambda server, connection: …)."""
    with ExitStack() as closing:

        def start(answer: Callable[[RawServer, socket.socket], None], **spoken: Any) -> RawServer:
            server = RawServer(lambda connection: answer(server, connection), **spoken)
            closing.callback(server.close)
            return server

        yield start
