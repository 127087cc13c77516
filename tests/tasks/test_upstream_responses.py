"""Test that invalid responses of an upstream do not corrupt the data, and that the run names the error."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import backoff
import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import RowMapping
from structlog.testing import capture_logs

from tests.sources.conftest import RawServer
from tests.tasks.conftest import Bench
from tests.tasks.feed import feed_source
from tests.upstreams import item

KEY = "the-key-that-must-stay-here"
PAGES = [[item(0), item(1)], [item(2)], []]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between retries of a request, and make them equal."""
    monkeypatch.setattr(backoff, "full_jitter", lambda seconds: seconds / 100)


@dataclass
class RawUpstream:
    """An upstream that sends these bytes as its response to every request."""

    response: bytes = b""
    request_count: int = 0
    url: str = ""
    closing: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> RawUpstream:
        server = RawServer(self._respond)
        self.closing.callback(server.close)
        self.url = server.url
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.close()

    def _respond(self, connection: socket.socket) -> None:
        self.request_count += 1
        connection.sendall(self.response)


@pytest.fixture
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream() as upstream:
        yield upstream


def make_response(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(lines).encode() + body


def page(number: int) -> bytes:
    return make_response(json.dumps(PAGES[number]).encode(), "Content-Type: application/json")


GZIPPED = gzip.compress(json.dumps(PAGES[1] * 50).encode())
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FAILED = "feed: GET /prices failed: "

TRANSIENT = {
    "an error object": (
        make_response(b'{"error": "too many calls"}'),
        'unexpected_body: expected a list, got “{"error": "too many calls"}”',
    ),
    "HTML": (
        make_response(b"<!DOCTYPE html><p>Busy", "Content-Type: text/html"),
        "unexpected_body: expected JSON, got HTML with the text “Busy”",
    ),
    "HTML declared as JSON": (
        make_response(b"<html>", "Content-Type: application/json"),
        "unexpected_body: expected JSON",
    ),
    "an empty body": (make_response(b""), "unexpected_body: expected JSON, got an empty body"),
    "null": (make_response(b"null"), "unexpected_body: expected a list, got “null”"),
    "half a list": (make_response(json.dumps(PAGES[1]).encode()[:-20]), "unexpected_body: expected JSON"),
    "half the length": (make_response(json.dumps(PAGES[1]).encode(), length=4000), f"upstream_unavailable: {FAILED}"),
    "half a chunk": (CHUNKED + b"64\r\n[{", f"upstream_unavailable: {FAILED}"),
    "no last chunk": (CHUNKED + b"2\r\n[]\r\n", f"upstream_unavailable: {FAILED}"),
    "no gzip": (make_response(b"[]", "Content-Encoding: gzip"), f"upstream_unavailable: {FAILED}"),
    "half a gzip": (
        make_response(GZIPPED[: len(GZIPPED) // 2], "Content-Encoding: gzip"),
        "unexpected_body: expected JSON",
    ),
}


@pytest.mark.parametrize(("response", "reason"), TRANSIENT.values(), ids=TRANSIENT)
def test_a_broken_response_makes_the_run_wait_and_loses_no_item(
    bench: Bench, upstream: RawUpstream, response: bytes, reason: str
) -> None:
    run = bench.request(feed_source(upstream.url))
    upstream.response = page(0)
    assert bench.slice(run, task_slice=0)["status"] == "queued"
    upstream.response = response
    waiting = bench.slice(run)
    assert (waiting["status"], waiting["error_code"]) == ("waiting", None)
    assert waiting["waiting_reason"].startswith(reason)
    assert read_totals(bench, run) == {"quotes": 2, "rejects": 0, "pages": 1, "next": "2"}

    for number, status in ((1, "queued"), (2, "succeeded")):
        bench.rows("UPDATE runs SET next_attempt_at = NULL")
        upstream.response = page(number)
        assert bench.slice(run, task_slice=0 if status == "queued" else 20)["status"] == status
    assert read_totals(bench, run) == {"quotes": 3, "rejects": 0, "pages": 3, "next": None}


@pytest.fixture
def other_host() -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1") as server:
        server.expect_request("/prices").respond_with_json([item(7)])
        yield server


TERMINAL = {
    "a redirect loop": ("/prices?page=2", "redirected", "feed: GET /prices was redirected more than 3 times"),
    "a redirect to another host": (
        "http://127.0.0.1:{port}/prices?page=2",
        "redirected",
        "feed: redirected to another origin, http://127.0.0.1:{port}; not followed. If you trust it, set FEED_URL",
    ),
}


@pytest.mark.parametrize(("location", "code", "detail"), TERMINAL.values(), ids=TERMINAL)
def test_an_invalid_redirect_fails_the_run_and_does_not_expose_the_key(
    bench: Bench,
    upstream: RawUpstream,
    other_host: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    location: str,
    code: str,
    detail: str,
) -> None:
    monkeypatch.setenv("FEED_API_KEY", KEY)
    run = bench.request(feed_source(upstream.url))
    upstream.response = page(0)
    bench.slice(run, task_slice=0)
    requests_before = upstream.request_count
    upstream.response = make_response(b"", f"Location: {location.format(port=other_host.port)}", status="302 Found")
    ended = bench.slice(run)
    assert (ended["status"], ended["error_code"]) == ("failed", code)
    assert ended["error_detail"] == detail.format(port=other_host.port)
    assert other_host.log == []
    assert upstream.request_count - requests_before <= 4
    assert read_totals(bench, run) == {"quotes": 2, "rejects": 0, "pages": 1, "next": "2"}


AGENT = b'{"error": "Please add a descriptive User-Agent to your request."}'
REFUSALS = {
    "403 Forbidden": (AGENT, "upstream_forbidden", f"and no key was sent; it says “{AGENT.decode()}”"),
    "401 Unauthorized": (b"<html><h1>Sign in</h1>", "key_missing", "it says HTML with the text “Sign in”"),
    "402 Payment Required": (b"quota used up", "payment_required", "it says “quota used up”"),
    "404 Not Found": (b"v3 was removed\x1b[2J", "upstream_refused", r"it says “v3 was removed\x1b[2J”"),
    "451 Unavailable": ("not in your région".encode(), "upstream_refused", "it says “not in your région”"),
    "503 Busy": (b'{"message": "maintenance until noon"}', "upstream_unavailable", 'maintenance until noon"}”'),
    "429 Slow Down": (b"30 calls a minute are allowed", "rate_limited", "it says “30 calls a minute are allowed”"),
    "200 OK": (b'{"error": "unknown symbol"}', "unexpected_body", 'got “{"error": "unknown symbol"}”'),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_the_error_and_the_log_of_a_refused_run_have_the_words_of_the_upstream(
    bench: Bench, upstream: RawUpstream, status: str
) -> None:
    body, code, words = REFUSALS[status]
    upstream.response = make_response(body, status=status)
    with capture_logs() as logs:
        ended = bench.slice(bench.request(feed_source(upstream.url)), max_waits=0)
    assert (ended["status"], ended["error_code"]) == ("failed", code)
    assert words in ended["error_detail"]
    [log] = [log for log in logs if log["event"] == "run_ended"]
    assert (log["code"], log["reason"]) == (code, ended["error_detail"])


@pytest.mark.parametrize(
    ("limits", "code", "setting"),
    [
        ({"max_body_values": 10}, "body_too_large", "MAX_BODY_VALUES"),
        ({"max_page_items": 1}, "page_too_large", "MAX_PAGE_ITEMS"),
    ],
)
def test_a_response_with_too_many_values_or_items_fails_the_run_and_names_the_setting(
    bench: Bench, upstream: RawUpstream, limits: dict[str, int], code: str, setting: str
) -> None:
    upstream.response = page(0)
    ended = bench.slice(bench.request(feed_source(upstream.url)), **limits)
    assert (ended["status"], ended["error_code"]) == ("failed", code)
    assert setting in ended["error_detail"]
    assert bench.one("SELECT count(*) FROM pages") == 0


def test_a_gzip_bomb_fails_the_run_before_it_fills_the_memory(bench: Bench, upstream: RawUpstream) -> None:
    upstream.response = make_response(gzip.compress(b"[" + b" " * 50_000_000 + b"]"), "Content-Encoding: gzip")
    ended = bench.slice(bench.request(feed_source(upstream.url)), max_body_bytes=100_000)
    assert (ended["status"], ended["error_code"]) == ("failed", "body_too_large")
    assert ended["error_detail"] == "feed: the body is larger than 100000 bytes; raise MAX_BODY_BYTES"
    assert upstream.request_count == 1
    assert bench.one("SELECT count(*) FROM raw_bodies") == 0
    assert bench.one("SELECT cursor FROM checkpoints") is None


@pytest.mark.parametrize("content_type", ["text/html", "text/plain; charset=latin-1", "image/png", ""], ids=str)
def test_a_valid_body_is_loaded_with_any_content_type(bench: Bench, upstream: RawUpstream, content_type: str) -> None:
    run = bench.request(feed_source(upstream.url))
    for number in range(3):
        upstream.response = make_response(json.dumps(PAGES[number]).encode(), f"Content-Type: {content_type}")
        ended = bench.slice(run, task_slice=0 if number < 2 else 20)
    assert ended["status"] == "succeeded"
    assert read_totals(bench, run) == {"quotes": 3, "rejects": 0, "pages": 3, "next": None}


def read_totals(bench: Bench, run: object) -> dict[str, Any]:
    """Return the numbers of quotes, rejects and pages of the run, and the next page."""
    row: RowMapping = bench.rows(
        """
        SELECT (SELECT count(*) FROM quotes) AS quotes, (SELECT count(*) FROM rejects) AS rejects,
               (SELECT count(*) FROM pages WHERE run = :run) AS pages, cursor->>'next' AS next
          FROM checkpoints
        """,
        run=run,
    )[0]
    return dict(row)
