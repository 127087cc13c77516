"""Upstreams on loopback, well-behaved and not, and clients that speak with them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from pytest_httpserver import HTTPServer

from sources.http import Access, HttpClient

KEY = "s3cret-key-of-an-upstream"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


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
    """Answers each connection, once the head of a request is in, with what `answer` does to the socket."""

    answer: Callable[[socket.socket], None]
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._speak, args=[connection], daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
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


@pytest.fixture
def raw_upstream() -> Iterator[Callable[[Callable[[RawServer, socket.socket], None]], RawServer]]:
    """Starts a server whose answers are written byte by byte: raw_upstream(lambda server, connection: …)."""
    with ExitStack() as closing:

        def start(answer: Callable[[RawServer, socket.socket], None]) -> RawServer:
            server = RawServer(lambda connection: answer(server, connection))
            closing.callback(server.close)
            return server

        yield start
