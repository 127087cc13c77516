"""Test that worker processes together stay within the rate limit of their upstream."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine
from werkzeug import Request, Response

from settings import Settings
from tests.processes import ROOT

pytestmark = pytest.mark.usefixtures("broker")


@pytest.fixture
def other_host() -> Iterator[HTTPServer]:
    """Yield a server that is not the upstream."""
    with HTTPServer(host="127.0.0.1") as server:
        yield server


WORKER = """
from datetime import timedelta
from settings import get_settings
from sources.contract import Page, Rate, Source, Upstream
from sources.registry import SOURCES
from store.engine import make_engine
from tasks.upstream import rate_limits as limits
from tasks.runs.claims import claim_run
from tasks.ingest import work_on
from tests.processes import until
from uuid import uuid4
import os

def fetch(window, http):
    for number in range(window.cursor["next"] if window.cursor else 0, 4):
        yield Page.of(http.get("/prices", {"page": number}), cursor={"next": number + 1})
    http.get("/moved")

SOURCES["desk"] = Source(
    name="desk", every=timedelta(hours=1), rate=Rate(per_minute=12), fetch=fetch,
    parse=lambda page: [], normalize=lambda item: item,
    upstreams={"desk": Upstream("https://prices.example.com", key_header="X-Api-Key")},
    partitions=lambda: [str(os.getpid())],  # So no worker waits for the lease of another worker.
)
limits.MINUTE = limits.LEEWAY = 1.0
settings = get_settings()
engine = make_engine(settings.database_url, "test", transaction_timeout=settings.transaction_timeout)
run = uuid4()
with engine.begin() as connection:
    connection.exec_driver_sql("INSERT INTO sources (name) VALUES ('desk') ON CONFLICT DO NOTHING")
    connection.exec_driver_sql(
        "INSERT INTO runs (id, source, kind, status, requested_by) VALUES (%s, 'desk', 'live', 'queued', 'test')",
        (str(run),),
    )

def ended():
    claim = claim_run(engine, run)
    if claim:
        work_on(engine, settings, claim)
    with engine.connect() as connection:
        [status, code] = connection.exec_driver_sql(f"SELECT status, error_code FROM runs WHERE id = '{run}'").one()
    return code if status == "failed" else None

print(until(ended, within=60))
"""


def test_eight_workers_stay_within_the_limit_and_send_the_key_only_to_the_upstream(
    engine: Engine, settings: Settings, httpserver: HTTPServer, other_host: HTTPServer
) -> None:
    arrivals: list[float] = []
    keys: list[str | None] = []

    def respond(request: Request) -> Response:
        arrivals.append(time.monotonic())
        keys.append(request.headers.get("X-Api-Key"))
        moved = request.path == "/moved"
        return Response("[]", 302 if moved else 200, {"Location": other_host.url_for("/moved")} if moved else {})

    for path in ("/prices", "/moved"):
        httpserver.expect_request(path).respond_with_handler(respond)
    environ = {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "PYTHONPATH": str(ROOT),
        "DESK_URL": httpserver.url_for("").rstrip("/"),
        "DESK_API_KEY": "the-key-of-the-desk",
    }
    with engine.begin() as connection:  # This index allows only one unfinished live run per source.
        connection.exec_driver_sql("DROP INDEX runs_one_of_a_kind_per_source")
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER], env=environ, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    results = [worker.communicate(timeout=90)[0].splitlines()[-1:] for worker in workers]
    assert results == [["redirected"]] * 8
    assert len(arrivals) == 8 * 5
    arrivals.sort()
    for first, thirteenth in zip(arrivals, arrivals[12:], strict=False):
        assert thirteenth - first > 1.0
    assert set(keys) == {"the-key-of-the-desk"}
    assert other_host.log == []
