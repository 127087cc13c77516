"""Measure API reads of a large table, compared with a bare Flask "hello" view and the same page in FastAPI.

The first page is measured with the default settings, which cache the response, and without the cache. The uncached
page is the reference for all other pages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import requests

from tests.bench.figures import Measured
from tests.bench.generator import ReadStats, measure_url
from tests.bench.large_table import FILLED, OLD, SECOND_CURRENCY, SHARED_ASSET, fill, hour_at
from tests.bench.peers_venv import PEERS, PYTHON
from tests.bench.rounds import rotated
from tests.bench.sample import symbol
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import SOURCE, Service

FIRST = "/data?limit=100"
CONNECTIONS = 8
MAX_ROWS_PER_PAGE = 1000
UVICORN = [str(PYTHON), str(PEERS / "fastapi_page.py")]
GUNICORN = [sys.executable, "-m", "gunicorn", "--config", "tests/bench/hello_gunicorn.py"]
CONTENDERS = ("hello", "fastapi", "again", "first")
"""These URLs have their own figures. All others are compared with the first page."""

COMPARED_MEMBERS = ("source", "asset", "observed_at", "price", "market_cap", "run")
"""The members of a quote that are compared with FastAPI's response."""


def measure_reads(servers: Servers, scale: Scale, measured: Measured) -> None:
    fill(servers, scale)
    with _urls(servers, scale) as urls:
        for number in range(scale.rounds):
            alone = {name: measure_url(urls[name], 1, scale.seconds_per_url) for name in rotated(list(urls), number)}
            pages = rotated(["again", "first", "fastapi"], number)
            together = {name: measure_url(urls[name], CONNECTIONS, scale.seconds_per_url) for name in pages}
            measured.note(_figures(alone, together))


@contextmanager
def _urls(servers: Servers, scale: Scale) -> Iterator[Mapping[str, str]]:
    """Yield the URLs to measure, by name. The "hello" view and FastAPI run as many processes as the API."""
    with servers.service("reads", FILLED) as service:
        hello = service.serve("hello", "/", GUNICORN).url
        fastapi = service.serve("fastapi", FIRST, UVICORN).url
        uncached = service.serve(RESPONSE_CACHE_MB="0").url
        _check_same(service.web.url, fastapi)
        yield {
            "hello": f"{hello}/",
            "fastapi": fastapi + FIRST,
            "again": service.web.url + FIRST,
            "first": uncached + FIRST,
            "deep": f"{uncached}{FIRST}&cursor={_half_way(service)}",
            "latest": f"{uncached}/data/latest?limit=100",
            **{name: f"{uncached}{FIRST}&{filtered}" for name, filtered in _filters(service, scale).items()},
        }


def _check_same(ours: str, theirs: str) -> None:
    """Assert that FastAPI returns the same rows as the API."""
    pages = [requests.get(url + FIRST, timeout=30).json()["data"] for url in (ours, theirs)]
    our_rows, their_rows = ([[row[name] for name in COMPARED_MEMBERS] for row in rows] for rows in pages)
    assert our_rows == their_rows, f"FastAPI returned other rows: {their_rows[:1]}, not {our_rows[:1]}"


def _half_way(service: Service) -> str:
    """Return the cursor after half of the table, read newest first."""
    half = service.database.value("SELECT count(*) / 2 FROM quotes")
    parameters = {"limit": str(MAX_ROWS_PER_PAGE), "fields": "price", "count": "none"}
    with requests.Session() as session:
        for _ in range(half // MAX_ROWS_PER_PAGE):
            page = session.get(f"{service.web.url}/data", params=parameters, timeout=30).json()
            parameters["cursor"] = page["pagination"]["next_cursor"]
    return parameters["cursor"]


def _filters(service: Service, scale: Scale) -> Mapping[str, str]:
    """Return each filter by name. Times are in the middle of the histories, and so is the run."""
    run, started = service.database.row(
        "SELECT id, to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM runs"
        " ORDER BY started_at OFFSET (SELECT count(*) / 2 FROM runs) LIMIT 1"
    )
    half = f"{hour_at(scale.hours // 2):%Y-%m-%dT%H:%M:%SZ}"
    return {
        "source": f"source={SOURCE}",
        "old_source": f"source={OLD}",
        "asset": f"asset={SHARED_ASSET}",
        "symbol": f"symbol={symbol(2)}",
        "quote_currency": f"quote_currency={SECOND_CURRENCY}",
        "observed_from": f"observed_from={half}",
        "observed_to": f"observed_to={half}",
        "ingested_since": f"ingested_since={started}",
        "run": f"run={run}",
        "order": "order=asc",
    }


def _figures(alone: Mapping[str, ReadStats], together: Mapping[str, ReadStats]) -> dict[str, float]:
    hello, fastapi, again, first = (alone[name].p50 for name in CONTENDERS)
    their_rps, again_rps, first_rps = (together[name].per_second for name in CONTENDERS[1:])
    return {
        **{f"read.{name}_vs_first": stats.p50 / first for name, stats in alone.items() if name not in CONTENDERS},
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
