"""The benchmarks' own load generator asks as often as it says, and does not take an error for an answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.bench.generator import by_ourselves

BODY = b"x" * 300_000


class Kept(BaseHTTPRequestHandler):
    """Answers over connections that are kept."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path.startswith("/data?") else 404)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """The generator hangs up when its time is over, in the middle of an answer."""


@pytest.fixture
def url() -> Iterator[str]:
    Kept.asked = []
    with Server(("127.0.0.1", 0), Kept) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_counts_each_answer_once_it_is_whole(url: str) -> None:
    told = by_ourselves(f"{url}/data?limit=100", connections=2, seconds=0.3)
    assert set(Kept.asked) == {"/data?limit=100"}
    # Each connection's last request was begun and not waited for.
    assert 0 < told.per_second * 0.3 <= len(Kept.asked)
    assert 0 < told.p50 < 300


def test_an_error_is_no_answer(url: str) -> None:
    with pytest.raises(AssertionError, match="404"):
        by_ourselves(f"{url}/other", connections=2, seconds=0.3)
