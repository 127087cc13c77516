"""Test that runs wait while the circuit breaker is open, and which responses it counts as failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import backoff
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from sources.contract import Http, Page, Rate, Source, Upstream, Window
from tests.tasks.conftest import Bench
from tests.upstreams import canned


@pytest.fixture
def down() -> set[int]:
    """Return a set for the status that the upstream returns instead of 200. While the set is empty, it returns 200."""
    return set()


@pytest.fixture
def requests(httpserver: HTTPServer, down: set[int]) -> list[str]:
    """Return the list that collects the paths of the requests that reach the upstream."""
    requests: list[str] = []

    def respond(request: Request) -> Response:
        requests.append(request.path)
        return Response("[]", next(iter(down), 200))

    httpserver.expect_request("/prices").respond_with_handler(respond)
    return requests


@pytest.fixture
def desk(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Return a source whose runs have two pages, with one request each."""

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in range(window.cursor["next"] if window.cursor else 0, 2):
            yield Page.of(http.get("/prices"), {"next": number + 1})

    monkeypatch.setenv("DESK_URL", httpserver.url_for("").rstrip("/"))
    return replace(
        canned(name="desk"), fetch=fetch, rate=Rate(), upstreams={"free": Upstream("https://prices.example.com")}
    )


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between retries of a request, and make them equal."""
    monkeypatch.setattr(backoff, "full_jitter", lambda seconds: seconds / 100)


def make_due(bench: Bench) -> None:
    bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")


def end_cooldown(bench: Bench) -> None:
    bench.rows("UPDATE sources SET breaker_opened_at = breaker_opened_at - interval '61 s'")


@pytest.mark.usefixtures("quick_retries")
def test_a_run_waits_while_the_breaker_is_open_and_continues_when_the_host_recovers(
    bench: Bench, desk: Source, requests: list[str], down: set[int]
) -> None:
    down.add(503)
    run = bench.request(desk)
    short_times = {"breaker_failures": 2, "breaker_cooldown": 60.0, "request_deadline": 30.0}
    waiting = bench.slice(run, **short_times)
    assert len(requests) == 2
    assert waiting["waits"] == 1
    assert waiting["waiting_reason"].startswith(
        "upstream_unavailable: desk: returned 503 for GET /prices; it says “[]”; "
        "desk: circuit breaker open: 2 requests in a row failed; no request before "
    )
    assert bench.one("SELECT next_attempt_at > clock_timestamp() + interval '50 s' FROM runs")

    make_due(bench)
    waiting = bench.slice(run, **short_times)
    assert len(requests) == 2
    assert waiting["waits"] == 1
    assert waiting["waiting_reason"].startswith("breaker_open: desk: circuit breaker open: 2 requests in a row failed")

    down.clear()
    end_cooldown(bench)
    make_due(bench)
    assert bench.slice(run, **short_times)["status"] == "succeeded"
    assert len(requests) == 4
    assert bench.one("SELECT breaker_failures FROM sources") == 0


@pytest.mark.usefixtures("quick_retries")
def test_a_run_fails_if_its_host_stays_down_although_the_breaker_blocks_its_retries(
    bench: Bench, desk: Source, requests: list[str], down: set[int]
) -> None:
    down.add(500)
    run = bench.request(desk)
    for _ in range(4):
        end_cooldown(bench)
        make_due(bench)
        row = bench.slice(run, breaker_failures=1, breaker_cooldown=60.0, request_deadline=30.0, max_waits=3)
    assert (row["status"], row["error_code"]) == ("failed", "upstream_unavailable")
    assert "gave up after 3 waits" in row["error_detail"]
    assert len(requests) == 4


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429])
def test_a_refused_request_counts_as_a_response_of_the_host(
    bench: Bench, desk: Source, requests: list[str], down: set[int], status: int
) -> None:
    bench.register(desk)
    bench.rows("INSERT INTO sources (name, breaker_failures, breaker_opened_at) VALUES ('desk', 9, '2020-01-01Z')")
    down.add(status)
    bench.slice(bench.request(desk), breaker_failures=1)
    assert requests
    assert bench.one("SELECT breaker_opened_at IS NULL AND breaker_failures = 0 FROM sources")


def test_a_trial_that_exceeds_the_budget_is_withdrawn(bench: Bench, desk: Source, requests: list[str]) -> None:
    limited = replace(desk, rate=Rate(per_month=5))
    bench.register(limited)
    bench.rows("""
        INSERT INTO sources (name, breaker_failures, breaker_opened_at, budget_used, budget_month)
        VALUES ('desk', 9, '2020-01-01Z', 5, date_trunc('month', clock_timestamp()))
    """)
    row = bench.slice(bench.request(limited))
    assert row["waiting_reason"].startswith("budget_spent: ")
    assert requests == []
    assert bench.one("SELECT breaker_probe_until IS NULL AND breaker_opened_at IS NOT NULL FROM sources")


def test_a_request_blocked_by_the_breaker_is_not_counted(bench: Bench, desk: Source, requests: list[str]) -> None:
    bench.register(desk)
    bench.rows("INSERT INTO sources (name, breaker_failures, breaker_opened_at) VALUES ('desk', 9, clock_timestamp())")
    row = bench.slice(bench.request(desk), breaker_cooldown=60.0)
    assert row["waiting_reason"].startswith("breaker_open: ")
    assert bench.one("SELECT budget_used FROM sources") == 0
    assert requests == []
