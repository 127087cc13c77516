"""Test that the load generator reports the number of requests, and fails on an error response."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.bench.generator import measure_in_python

BODY = b"x" * 300_000


class KeepAliveHandler(BaseHTTPRequestHandler):
    """A handler that responds over persistent connections."""

    protocol_version = "HTTP/1.1"
    paths: list[str]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(200 if self.path.startswith("/data?") else 404)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore errors: the generator closes its connections in the middle of a response."""


@pytest.fixture
def url() -> Iterator[str]:
    KeepAliveHandler.paths = []
    with Server(("127.0.0.1", 0), KeepAliveHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_each_complete_response_is_counted_once(url: str) -> None:
    stats = measure_in_python(f"{url}/data?limit=100", connections=2, seconds=0.3)
    assert set(KeepAliveHandler.paths) == {"/data?limit=100"}
    # Each connection's last request may have no response yet.
    assert 0 < stats.per_second * 0.3 <= len(KeepAliveHandler.paths)
    assert 0 < stats.p50 < 300


def test_the_generator_fails_on_an_error_response(url: str) -> None:
    with pytest.raises(AssertionError, match="404"):
        measure_in_python(f"{url}/other", connections=2, seconds=0.3)
