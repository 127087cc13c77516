"""Reading a large table through the API, and beside it a bare Flask hello and the same page by FastAPI.

The first page is asked of the API as it is, which keeps the answer, and of one that keeps none: what a page costs that
nobody asked for before, and what all other pages are held against.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import requests

from tests.bench.figures import Measured
from tests.bench.generator import Asked, ask
from tests.bench.large import FILLED, OLD, SECOND_CURRENCY, THRICE, at, fill
from tests.bench.peers_venv import PEERS, PYTHON
from tests.bench.rounds import rotated
from tests.bench.sample import symbol
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import SOURCE, Service

FIRST = "/data?limit=100"
CONNECTIONS = 8
MOST_AT_ONCE = 1000
UVICORN = [str(PYTHON), str(PEERS / "fastapi_page.py")]
GUNICORN = [sys.executable, "-m", "gunicorn", "--config", "tests/bench/hello_gunicorn.py"]
NAMED = ("hello", "fastapi", "again", "first")
"""Those that have figures of their own; all others are held against the first page."""

MEMBERS = ("source", "asset", "observed_at", "price", "market_cap", "run")
"""Of a quote, that are held against FastAPI's."""


def measure_reads(servers: Servers, scale: Scale, measured: Measured) -> None:
    fill(servers, scale)
    with _urls(servers, scale) as urls:
        for number in range(scale.rounds):
            alone = {name: ask(urls[name], 1, scale.asking) for name in rotated(list(urls), number)}
            pages = rotated(["again", "first", "fastapi"], number)
            together = {name: ask(urls[name], CONNECTIONS, scale.asking) for name in pages}
            measured.note(_figures(alone, together))


@contextmanager
def _urls(servers: Servers, scale: Scale) -> Iterator[Mapping[str, str]]:
    """What is asked for, by the figure's name. The hello and FastAPI have as many processes as the API."""
    with servers.service("reads", FILLED) as service:
        hello = service.serve("hello", "/", GUNICORN).url
        fastapi = service.serve("fastapi", FIRST, UVICORN).url
        keeping_none = service.serve(ANSWER_CACHE_MB="0").url
        _check_same(service.web.url, fastapi)
        yield {
            "hello": f"{hello}/",
            "fastapi": fastapi + FIRST,
            "again": service.web.url + FIRST,
            "first": keeping_none + FIRST,
            "deep": f"{keeping_none}{FIRST}&cursor={_half_way(service)}",
            "latest": f"{keeping_none}/data/latest?limit=100",
            **{name: f"{keeping_none}{FIRST}&{filtered}" for name, filtered in _filters(service, scale).items()},
        }


def _check_same(ours: str, theirs: str) -> None:
    """FastAPI answers with the very rows that the API does."""
    pages = [requests.get(url + FIRST, timeout=30).json()["data"] for url in (ours, theirs)]
    ours_rows, their_rows = ([[row[name] for name in MEMBERS] for row in rows] for rows in pages)
    assert ours_rows == their_rows, f"FastAPI's page is another: {their_rows[:1]}, not {ours_rows[:1]}"


def _half_way(service: Service) -> str:
    """A cursor as a reader has it who came half through the table, newest first."""
    half = service.database.value("SELECT count(*) / 2 FROM quotes")
    wanted = {"limit": str(MOST_AT_ONCE), "fields": "price", "count": "none"}
    with requests.Session() as session:
        for _ in range(half // MOST_AT_ONCE):
            page = session.get(f"{service.web.url}/data", params=wanted, timeout=30).json()
            wanted["cursor"] = page["pagination"]["next_cursor"]
    return wanted["cursor"]


def _filters(service: Service, scale: Scale) -> Mapping[str, str]:
    """Each alone; times half-way through the histories, and the run in the middle."""
    run, started = service.database.row(
        "SELECT id, to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM runs"
        " ORDER BY started_at OFFSET (SELECT count(*) / 2 FROM runs) LIMIT 1"
    )
    half = f"{at(scale.hours // 2):%Y-%m-%dT%H:%M:%SZ}"
    return {
        "source": f"source={SOURCE}",
        "old_source": f"source={OLD}",
        "asset": f"asset={THRICE}",
        "symbol": f"symbol={symbol(2)}",
        "quote_currency": f"quote_currency={SECOND_CURRENCY}",
        "observed_from": f"observed_from={half}",
        "observed_to": f"observed_to={half}",
        "ingested_since": f"ingested_since={started}",
        "run": f"run={run}",
        "order": "order=asc",
    }


def _figures(alone: Mapping[str, Asked], together: Mapping[str, Asked]) -> dict[str, float]:
    hello, fastapi, again, first = (alone[name].p50 for name in NAMED)
    their_rps, again_rps, first_rps = (together[name].per_second for name in NAMED[1:])
    return {
        **{f"read.{name}_vs_first": asked.p50 / first for name, asked in alone.items() if name not in NAMED},
        "read.again_p50_vs_hello": again / hello,
        "read.page_p50_vs_hello": first / hello,
        "read.again_throughput_vs_fastapi": again_rps / their_rps,
        "read.throughput_vs_fastapi": first_rps / their_rps,
        "read.again_p50_vs_fastapi": again / fastapi,
        "read.p50_vs_fastapi": first / fastapi,
        "read.hello_p50_ms": hello,
        "read.again_p50_ms": again,
        "read.first_p50_ms": first,
        "read.again_rps": again_rps,
        "read.page_rps": first_rps,
        "read.fastapi_rps": their_rps,
    }
