"""Start upstreams on loopback, some of them faulty, and create clients that send requests to them."""

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

from sources.auth import HeaderKey
from sources.http.authentication import Authenticator, Credentials
from sources.http.client import HttpClient
from sources.http.exchange import Access

KEY = "s3cret-Key-of-an-upstream"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def serve(upstream: HTTPServer, *responses: Response) -> list[Request]:
    """Serve these responses on /tickers in turn, then repeat the last. Return the list that collects the requests."""
    requests: list[Request] = []

    def respond(request: Request) -> Response:
        requests.append(request)
        return responses[min(len(requests), len(responses)) - 1]

    upstream.expect_request("/tickers").respond_with_handler(respond)
    return requests


def make_response(status: int = 200, body: str | bytes = "[]", **headers: str) -> Response:
    """Return a JSON response. Write the names of headers with `_` instead of `-`."""
    header_values = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, header_values, content_type="application/json")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Assert that the block takes less than this number of seconds."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts, and remove their randomness."""
    monkeypatch.setattr(backoff, "full_jitter", lambda seconds: seconds / 100)


@pytest.fixture(scope="session")
def two_upstreams() -> Iterator[tuple[HTTPServer, HTTPServer]]:
    """Start two servers for the whole session, because stopping a server takes half a second."""
    with HTTPServer(host="127.0.0.1", threaded=True) as first, HTTPServer(host="127.0.0.1", threaded=True) as second:
        yield first, second


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
    """A factory of clients that records their reports.

    spent:     the number of requests that the clients counted.
    outcomes:  one entry per request: whether the client reported a response of the host.
    forbid:    an error to raise instead of counting a request, or None.
    """

    spent: int = 0
    outcomes: list[bool] = field(default_factory=list)
    forbid: Exception | None = None
    closing: ExitStack = field(default_factory=ExitStack)

    def __call__(
        self,
        url: str,
        *,
        deadline: float = 4,
        max_body: int = 1_000_000,
        max_values: int = 100_000,
        key_header: str = "X-Key",
        credentials: Credentials | None = None,
        contact: str | None = None,
    ) -> HttpClient:
        if credentials is None:
            credentials = Credentials((HeaderKey(key_header),), {}, {"API_KEY": KEY}) if key_header else Credentials()
        access = Access(
            source="example",
            url=url.rstrip("/"),
            auth=Authenticator(credentials, lambda: NOW),
            deadline=deadline,
            max_body_bytes=max_body,
            max_body_values=max_values,
            spend=self.spend,
            record_result=self.outcomes.append,
            clock=lambda: NOW,
            contact=contact,
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
    """A server that accepts connections and responds to each with raw bytes.

    respond:     called with the socket after the server received `awaits`.
    tls:         the TLS context of the server, or None for plain HTTP.
    connections: the number of connections so far.
    stopped:     set at the end of the test.
    """

    respond: Callable[[socket.socket], None]
    tls: ssl.SSLContext | None = None
    awaits: bytes = b"\r\n\r\n"
    connections: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._handle, args=[connection], daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self.tls is None:
                return self._receive(connection)
            with self.tls.wrap_socket(connection, server_side=True) as secured:
                self._receive(secured)

    def _receive(self, connection: socket.socket) -> None:
        received = b""
        while self.awaits not in received:
            data = connection.recv(65536)
            if not data:
                return
            received += data
        self.respond(connection)

    def trickle(self, connection: socket.socket, text: bytes) -> None:
        """Send one byte every 20 ms until the test ends."""
        for byte in text:
            connection.sendall(bytes([byte]))
            if self.stopped.wait(0.02):
                return

    def close(self) -> None:
        self.stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


RawUpstream = Callable[..., RawServer]


@pytest.fixture
def raw_upstream() -> Iterator[RawUpstream]:
    """Return a function that starts a `RawServer`. Call it as `raw_upstream(lambda server, connection: …)`."""
    with ExitStack() as closing:

        def start(respond: Callable[[RawServer, socket.socket], None], **options: Any) -> RawServer:
            server = RawServer(lambda connection: respond(server, connection), **options)
            closing.callback(server.close)
            return server

        yield start
