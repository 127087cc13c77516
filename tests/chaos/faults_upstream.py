"""Upstreams that lie for a while, between the replay server and a real worker, and then say what is so."""

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
from tests.chaos.stage import Stage, fault
from tests.processes import until

TRUE_HEADERS = ("Content-Type", "ETag")


@dataclass(frozen=True)
class Answer:
    """claims: the length it says it has."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    claims: int | None = None


Lie = Callable[[Answer], Answer]

HTML = b"<!DOCTYPE html><title>Busy</title>"
PASSING: tuple[Lie, ...] = (
    *[lambda true: Answer(503, b"")] * 3,
    lambda true: Answer(429, b"{}", {"Retry-After": "1"}),
    *[lambda true: Answer(200, true.body[: len(true.body) // 2], true.headers, claims=len(true.body))] * 3,
    lambda true: Answer(200, true.body[: len(true.body) // 2], true.headers),
    lambda true: Answer(200, HTML, {"Content-Type": "application/json"}),
    lambda true: Answer(200, b'{"status": {"error_code": 429}}', true.headers),
    *[lambda true: Answer(200, true.body, {**true.headers, "Content-Encoding": "gzip"})] * 3,
    lambda true: Answer(304, b""),
)


class Liar(ThreadingHTTPServer):
    """Hands on what the replay server says, or what `lie` makes of it. asked: each path, with its query."""

    daemon_threads = True

    def __init__(self, replay: str):
        self.replay = replay
        self.asked: list[str] = []
        self.lie: Callable[[str], Lie | None] = lambda path: None
        self.rewrite: Callable[[str], str] = lambda path: path
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, headers: Message) -> Answer:
        self.asked.append(path)
        passed_on = {name: value for name, value in headers.items() if name == "If-None-Match"}
        said = requests.get(self.replay + self.rewrite(path), headers=passed_on, timeout=10)
        kept = {name: said.headers[name] for name in TRUE_HEADERS if name in said.headers}
        true = Answer(said.status_code, said.content, kept)
        lie = self.lie(path)
        return lie(true) if lie else true


class _Handler(BaseHTTPRequestHandler):
    server: Liar

    def do_GET(self) -> None:
        answer = self.server.answer(self.path, self.headers)
        self.send_response(answer.status)
        length = len(answer.body) if answer.claims is None else answer.claims
        for name, value in {**answer.headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Not a word: what it does is in `asked`."""


@contextmanager
def lying(stage: Stage) -> Iterator[Liar]:
    """Upstreams that are asked in the replay server's place, by what is started from now on."""
    with Liar(stage.servers.replay.url) as liar:
        threading.Thread(target=liar.serve_forever, daemon=True).start()
        stage.environ |= {f"{source}_URL": liar.url + path for source, path in RECORDED_PATHS.items()}
        try:
            yield liar
        finally:
            liar.shutdown()


@fault("an upstream that answers with errors, halves, HTML and nonsense")
def lies_of_all_kinds(stage: Stage) -> str:
    """Each for as long as it takes to be believed, one after the other; then it is well again."""
    with lying(stage) as liar:
        # To one page after the other: the wait after a failure doubles, until a page is committed.
        left = {"&page=2": [*PASSING[::2]], "&page=3": [*PASSING[1::2]], "/tickers": [*PASSING[::3]]}
        lies = sum(map(len, left.values()))

        def lie(path: str) -> Lie | None:
            of_page = next((lies for asked, lies in left.items() if asked in path), [])
            return of_page.pop(0) if of_page else None

        liar.lie = lie
        stage.start("control")
        stage.start("worker")
        runs = stage.request("coingecko", "coinpaprika")
        until(lambda: sum(map(len, left.values())) < lies, what="the first lie was told")
        stage.hurt()
        stage.settle()
        assert not any(left.values()), f"lies not told: { {page: len(lies) for page, lies in left.items()} }"
    claims = [stage.run(run).claims for run in runs]
    return f"{lies} lies, {sum(claims)} starts; nothing of them was loaded"


@fault("an upstream that answers every page with the first")
def the_same_page_for_ever(stage: Stage) -> str:
    with lying(stage) as liar:
        liar.rewrite = lambda path: _with(path, page="1") if "page=" in path else path
        stage.start("control")
        stage.start("worker")
        [run] = stage.request("coingecko")
        until(partial(_waits_for, stage, run, "repeated_page"), what="the repeat was found out")
        stage.hurt()
        assert stage.one("SELECT count(*) FROM pages") == 1, "a repeat was loaded"
        liar.rewrite = lambda path: path
        stage.settle()
    return f"found out on its second page; {len(liar.asked)} calls in all"


@fault("kill -9 while nothing changed since the last run")
def killed_while_nothing_changed(stage: Stage) -> str:
    """Pages that are not loaded again are committed, and left at a kill, as any other."""
    stage.start("control")
    stage.start("worker")
    first = stage.request("coingecko", "coinpaprika")
    stage.settle()
    for point in ("after_raw_page", "after_commit"):
        stage.arm(point, "SIGKILL")
    second = stage.request("coingecko", "coinpaprika")
    for point in ("after_raw_page", "after_commit"):
        stage.struck(point)
    stage.settle()
    [pages] = stage.rows(
        """
        SELECT count(*) FILTER (WHERE status = 304) AS kept, count(*) AS pages, sum(fetched) AS fetched
          FROM pages WHERE run = ANY(:runs)
        """,
        runs=second,
    )
    before = stage.one("SELECT count(*) FROM pages WHERE run = ANY(:runs)", runs=first)
    assert (pages.kept, pages.pages, pages.fetched) == (before, before, 0), dict(pages)
    return f"{pages.kept} pages with nothing in them, each committed once"


def _waits_for(stage: Stage, run: Any, code: str) -> bool:
    return str(stage.run(run).waiting_reason).startswith(code)


def _with(path: str, **changes: str) -> str:
    parts = urlsplit(path)
    return f"{parts.path}?{urlencode({**dict(parse_qsl(parts.query)), **changes})}"
