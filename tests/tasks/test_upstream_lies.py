"""What a user sees when an upstream answers what is not so: the run says what it was, and the data stays right."""

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

from tests.sources.conftest import RawServer
from tests.tasks.conftest import Bench
from tests.tasks.feed import feed_source
from tests.upstreams import item

KEY = "the-key-that-must-stay-here"
PAGES = [[item(0), item(1)], [item(2)], []]


@pytest.fixture(autouse=True)
def quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the chance out of the pauses between a request's repeats, and most of their length."""
    monkeypatch.setattr(backoff, "full_jitter", lambda seconds: seconds / 100)


@dataclass
class Mouth:
    """An upstream that says whatever it is told to, to the byte. heard: how many requests there were."""

    says: bytes = b""
    heard: int = 0
    url: str = ""
    closing: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Mouth:
        server = RawServer(self._speak)
        self.closing.callback(server.close)
        self.url = server.url
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.close()

    def _speak(self, connection: socket.socket) -> None:
        self.heard += 1
        connection.sendall(self.says)


@pytest.fixture
def mouth() -> Iterator[Mouth]:
    with Mouth() as mouth:
        yield mouth


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(lines).encode() + body


def page(number: int) -> bytes:
    return answer(json.dumps(PAGES[number]).encode(), "Content-Type: application/json")


PACKED = gzip.compress(json.dumps(PAGES[1] * 50).encode())
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FAILED = "feed: GET /prices failed: "

PASSING = {
    "an error object": (answer(b'{"error": "too many calls"}'), 'unexpected_body: expected a list, got \'{"error"'),
    "HTML": (
        answer(b"<!DOCTYPE html><p>Busy", "Content-Type: text/html"),
        "unexpected_body: expected JSON, got '<!DOC",
    ),
    "HTML that is called JSON": (answer(b"<html>", "Content-Type: application/json"), "unexpected_body: expected JSON"),
    "nothing": (answer(b""), "unexpected_body: expected JSON, got ''"),
    "null": (answer(b"null"), "unexpected_body: expected a list, got 'null'"),
    "half a list": (answer(json.dumps(PAGES[1]).encode()[:-20]), "unexpected_body: expected JSON"),
    "half the length": (answer(json.dumps(PAGES[1]).encode(), length=4000), f"upstream_unavailable: {FAILED}"),
    "half a chunk": (CHUNKED + b"64\r\n[{", f"upstream_unavailable: {FAILED}"),
    "no last chunk": (CHUNKED + b"2\r\n[]\r\n", f"upstream_unavailable: {FAILED}"),
    "no gzip": (answer(b"[]", "Content-Encoding: gzip"), f"upstream_unavailable: {FAILED}"),
    "half a gzip": (answer(PACKED[: len(PACKED) // 2], "Content-Encoding: gzip"), "unexpected_body: expected JSON"),
}


@pytest.mark.parametrize(("lie", "reason"), PASSING.values(), ids=PASSING)
def test_what_may_pass_lets_the_run_wait_and_costs_nothing(bench: Bench, mouth: Mouth, lie: bytes, reason: str) -> None:
    run = bench.request(feed_source(mouth.url))
    mouth.says = page(0)
    assert bench.slice(run, task_slice=0)["status"] == "queued"
    mouth.says = lie
    waiting = bench.slice(run)
    assert (waiting["status"], waiting["error_code"]) == ("waiting", None)
    assert waiting["waiting_reason"].startswith(reason)
    assert stands(bench, run) == {"quotes": 2, "rejects": 0, "pages": 1, "next": "2"}

    for number, status in ((1, "queued"), (2, "succeeded")):
        bench.rows("UPDATE runs SET next_attempt_at = NULL")
        mouth.says = page(number)
        assert bench.slice(run, task_slice=0 if status == "queued" else 20)["status"] == status
    assert stands(bench, run) == {"quotes": 3, "rejects": 0, "pages": 3, "next": None}


@pytest.fixture
def elsewhere() -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1") as server:
        server.expect_request("/prices").respond_with_json([item(7)])
        yield server


FINAL = {
    "a redirect in a circle": ("/prices?page=2", "redirected", "feed: GET /prices was redirected more than 3 times"),
    "a redirect to another host": (
        "http://127.0.0.1:{port}/prices?page=2",
        "redirected",
        "feed: redirected to another origin, http://127.0.0.1:{port}; not followed. If you trust it, set FEED_URL",
    ),
}


@pytest.mark.parametrize(("location", "code", "detail"), FINAL.values(), ids=FINAL)
def test_a_redirect_that_leads_nowhere_or_away_ends_the_run_and_the_key_stays_here(
    bench: Bench,
    mouth: Mouth,
    elsewhere: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    location: str,
    code: str,
    detail: str,
) -> None:
    monkeypatch.setenv("FEED_API_KEY", KEY)
    run = bench.request(feed_source(mouth.url))
    mouth.says = page(0)
    bench.slice(run, task_slice=0)
    heard = mouth.heard
    mouth.says = answer(b"", f"Location: {location.format(port=elsewhere.port)}", status="302 Found")
    ended = bench.slice(run)
    assert (ended["status"], ended["error_code"]) == ("failed", code)
    assert ended["error_detail"] == detail.format(port=elsewhere.port)
    assert elsewhere.log == []
    assert mouth.heard - heard <= 4
    assert stands(bench, run) == {"quotes": 2, "rejects": 0, "pages": 1, "next": "2"}


def test_a_packed_bomb_ends_the_run_before_it_fills_the_memory(bench: Bench, mouth: Mouth) -> None:
    mouth.says = answer(gzip.compress(b"[" + b" " * 50_000_000 + b"]"), "Content-Encoding: gzip")
    ended = bench.slice(bench.request(feed_source(mouth.url)), max_body_bytes=100_000)
    assert (ended["status"], ended["error_code"]) == ("failed", "body_too_large")
    assert ended["error_detail"] == "feed: the body is larger than 100000 bytes; raise MAX_BODY_BYTES"
    assert mouth.heard == 1
    assert bench.one("SELECT count(*) FROM raw_bodies") == 0
    assert bench.one("SELECT cursor FROM checkpoints") is None


@pytest.mark.parametrize("called", ["text/html", "text/plain; charset=latin-1", "image/png", ""], ids=str)
def test_a_good_body_is_taken_whatever_it_is_called(bench: Bench, mouth: Mouth, called: str) -> None:
    run = bench.request(feed_source(mouth.url))
    for number in range(3):
        mouth.says = answer(json.dumps(PAGES[number]).encode(), f"Content-Type: {called}")
        ended = bench.slice(run, task_slice=0 if number < 2 else 20)
    assert ended["status"] == "succeeded"
    assert stands(bench, run) == {"quotes": 3, "rejects": 0, "pages": 3, "next": None}


def stands(bench: Bench, run: object) -> dict[str, Any]:
    """How much of everything there is, and where the run would go on."""
    row: RowMapping = bench.rows(
        """
        SELECT (SELECT count(*) FROM quotes) AS quotes, (SELECT count(*) FROM rejects) AS rejects,
               (SELECT count(*) FROM pages WHERE run = :run) AS pages, cursor->>'next' AS next
          FROM checkpoints
        """,
        run=run,
    )[0]
    return dict(row)
