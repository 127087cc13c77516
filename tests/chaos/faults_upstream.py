"""Put a faulty upstream between the recorded upstreams and a worker for a while, and then repair it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from devstack.environment import RECORDED_PATHS
from tests.chaos.registry import fault
from tests.chaos.stage import Stage
from tests.processes import until

FORWARDED_HEADERS = ("Content-Type", "ETag")


@dataclass(frozen=True)
class UpstreamResponse:
    """A response. declared_length: its Content-Length, if that differs from the length of the body."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    declared_length: int | None = None


Corruption = Callable[[UpstreamResponse], UpstreamResponse]

HTML = b"<!DOCTYPE html><title>Busy</title>"
CORRUPTIONS: tuple[Corruption, ...] = (
    *[lambda response: UpstreamResponse(503, b"")] * 3,
    lambda response: UpstreamResponse(429, b"{}", {"Retry-After": "1"}),
    *[
        lambda response: UpstreamResponse(
            200, response.body[: len(response.body) // 2], response.headers, declared_length=len(response.body)
        )
    ]
    * 3,
    lambda response: UpstreamResponse(200, response.body[: len(response.body) // 2], response.headers),
    lambda response: UpstreamResponse(200, HTML, {"Content-Type": "application/json"}),
    lambda response: UpstreamResponse(200, b'{"status": {"error_code": 429}}', response.headers),
    *[lambda response: UpstreamResponse(200, response.body, {**response.headers, "Content-Encoding": "gzip"})] * 3,
    lambda response: UpstreamResponse(304, b""),
)


class FaultyUpstream(ThreadingHTTPServer):
    """Forward requests to the recorded upstreams, and corrupt some responses.

    corruption_for: returns the corruption of a path's response, if any. rewrite: replaces the path of a request.
    paths: each requested path, with its query.
    """

    daemon_threads = True

    def __init__(self, upstreams: str):
        self.upstreams = upstreams
        self.paths: list[str] = []
        self.corruption_for: Callable[[str], Corruption | None] = lambda path: None
        self.rewrite: Callable[[str], str] = lambda path: path
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def respond(self, path: str, headers: Message) -> UpstreamResponse:
        self.paths.append(path)
        forwarded = {name: value for name, value in headers.items() if name == "If-None-Match"}
        recorded = requests.get(self.upstreams + self.rewrite(path), headers=forwarded, timeout=10)
        returned = {name: recorded.headers[name] for name in FORWARDED_HEADERS if name in recorded.headers}
        response = UpstreamResponse(recorded.status_code, recorded.content, returned)
        corrupt = self.corruption_for(path)
        return corrupt(response) if corrupt else response


class _Handler(BaseHTTPRequestHandler):
    server: FaultyUpstream

    def do_GET(self) -> None:
        response = self.server.respond(self.path, self.headers)
        self.send_response(response.status)
        length = len(response.body) if response.declared_length is None else response.declared_length
        for name, value in {**response.headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, *_: Any) -> None:
        """Log nothing, since `paths` records the requests."""


@contextmanager
def faulty_upstream(stage: Stage) -> Iterator[FaultyUpstream]:
    """Yield a faulty upstream. Processes started from now on use it instead of the recorded upstreams."""
    with FaultyUpstream(stage.servers.upstreams.url) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        stage.environ |= {f"{source}_URL": upstream.url + path for source, path in RECORDED_PATHS.items()}
        try:
            yield upstream
        finally:
            upstream.shutdown()


@fault("an upstream that returns errors, truncated bodies, HTML and garbage")
def corrupted_responses(stage: Stage) -> str:
    """Apply each corruption until it has had an effect. Afterwards the upstream works again."""
    with faulty_upstream(stage) as upstream:
        # Spread the corruptions over several pages, since the wait after a failure doubles until a page is committed.
        remaining = {"&page=2": [*CORRUPTIONS[::2]], "&page=3": [*CORRUPTIONS[1::2]], "/tickers": [*CORRUPTIONS[::3]]}
        count = sum(map(len, remaining.values()))

        def next_corruption(path: str) -> Corruption | None:
            corruptions = next((corruptions for pattern, corruptions in remaining.items() if pattern in path), [])
            return corruptions.pop(0) if corruptions else None

        upstream.corruption_for = next_corruption
        stage.start("control")
        stage.start("worker")
        runs = stage.request("coingecko", "coinpaprika")
        until(lambda: sum(map(len, remaining.values())) < count, what="the first corrupted response was sent")
        stage.mark_fault()
        stage.settle()
        assert not any(remaining.values()), f"not sent: { {page: len(unsent) for page, unsent in remaining.items()} }"
    claims = [stage.run(run).claims for run in runs]
    return f"{count} corrupted responses, {sum(claims)} starts; none of them was loaded"


@fault("an upstream that returns the first page for every page")
def same_page_forever(stage: Stage) -> str:
    with faulty_upstream(stage) as upstream:
        upstream.rewrite = lambda path: _with(path, page="1") if "page=" in path else path
        stage.start("control")
        stage.start("worker")
        [run] = stage.request("coingecko")
        until(partial(_waits_for, stage, run, "repeated_page"), what="the repeated page was detected")
        stage.mark_fault()
        assert stage.scalar("SELECT count(*) FROM pages") == 1, "a repeated page was loaded"
        upstream.rewrite = lambda path: path
        stage.settle()
    return f"detected on its second page; {len(upstream.paths)} requests in total"


@fault("kill -9 during a run whose upstream has not changed")
def killed_in_unchanged_run(stage: Stage) -> str:
    """Kill a run that commits unchanged pages, and expect it to resume."""
    stage.start("control")
    stage.start("worker")
    first = stage.request("coingecko", "coinpaprika")
    stage.settle()
    for point in ("after_raw_page", "after_commit"):
        stage.arm(point, "SIGKILL")
    second = stage.request("coingecko", "coinpaprika")
    for point in ("after_raw_page", "after_commit"):
        stage.wait_until_reached(point)
    stage.settle()
    [pages] = stage.rows(
        """
        SELECT count(*) FILTER (WHERE status = 304) AS unchanged, count(*) AS pages, sum(fetched) AS fetched
          FROM pages WHERE run = ANY(:runs)
        """,
        runs=second,
    )
    expected = stage.scalar("SELECT count(*) FROM pages WHERE run = ANY(:runs)", runs=first)
    assert (pages.unchanged, pages.pages, pages.fetched) == (expected, expected, 0), dict(pages)
    return f"{pages.unchanged} unchanged pages, each committed once"


def _waits_for(stage: Stage, run: Any, code: str) -> bool:
    return str(stage.run(run).waiting_reason).startswith(code)


def _with(path: str, **changes: str) -> str:
    parts = urlsplit(path)
    return f"{parts.path}?{urlencode({**dict(parse_qsl(parts.query)), **changes})}"
