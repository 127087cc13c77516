"""While a host fails, no worker sends requests to it, except for one trial at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import backoff
import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine, text
from werkzeug import Request, Response

from settings import Settings
from sources.contract import Http, Page, Rate, Source, TransientError, Upstream, Window
from tasks.upstream.circuit_breaker import CLOSED, BreakerState, CircuitBreaker, read_breakers
from tests.tasks.conftest import Bench
from tests.upstreams import canned

MakeBreaker = Callable[[], CircuitBreaker]


@pytest.fixture
def times(settings: Settings) -> Settings:
    """Three failures open the breaker for a minute. A trial has a deadline of a minute."""
    return replace(settings, breaker_failures=3, breaker_cooldown=60.0, request_deadline=60.0)


@pytest.fixture
def worker(engine: Engine, times: Settings) -> MakeBreaker:
    """A function that returns another worker's breaker of the source `canned`."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO sources (name) VALUES ('canned'), ('another')"))
    return lambda: CircuitBreaker(engine, "canned", times)


def call(worker: CircuitBreaker, alive: bool) -> None:
    worker.admit()
    worker.record_result(alive)


def refusal(worker: CircuitBreaker) -> TransientError:
    with pytest.raises(TransientError) as caught:
        worker.admit()
    assert caught.value.code == "breaker_open"
    assert not caught.value.is_failure
    return caught.value


def is_admitted(worker: CircuitBreaker) -> bool:
    try:
        worker.admit()
    except TransientError:
        return False
    return True


def read_state(engine: Engine, times: Settings) -> BreakerState:
    with engine.connect() as connection:
        return read_breakers(connection, times)["canned"]


def advance(engine: Engine, seconds: float) -> None:
    """Move the breaker's times into the past by this many seconds."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE sources SET breaker_opened_at = breaker_opened_at - :time,
                                   breaker_probe_until = breaker_probe_until - :time
            """),
            {"time": timedelta(seconds=seconds)},
        )


@pytest.fixture
def opened(engine: Engine, worker: MakeBreaker) -> None:
    for _ in range(3):
        call(worker(), alive=False)


# Closed


def test_failures_that_are_not_in_a_row_do_not_open_the_breaker(
    engine: Engine, worker: MakeBreaker, times: Settings
) -> None:
    for alive in (False, False, True, False, False):
        call(worker(), alive)
    assert read_state(engine, times) == BreakerState("closed", 2, None)
    call(worker(), alive=True)
    assert read_state(engine, times) == CLOSED


def test_a_successful_request_writes_nothing(engine: Engine, worker: MakeBreaker) -> None:
    with engine.connect() as connection:
        row = text("SELECT xmin, ctid FROM sources WHERE name = 'canned'")
        before = connection.execute(row).one()
        for _ in range(3):
            call(worker(), alive=True)
        assert connection.execute(row).one() == before


def test_failures_of_all_workers_count_together(worker: MakeBreaker) -> None:
    workers = [worker() for _ in range(3)]
    for breaker in workers:
        breaker.admit()
    for breaker in workers:
        breaker.record_result(False)
    refusal(worker())


# Open


@pytest.mark.usefixtures("opened")
def test_while_open_no_worker_sends_requests_and_the_error_names_the_reason_and_the_time(
    engine: Engine, worker: MakeBreaker, times: Settings
) -> None:
    error = refusal(worker())
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 60
    state = read_state(engine, times)
    assert (state.state, state.failures) == ("open", 3)
    assert state.until is not None
    assert error.detail == (
        f"canned: circuit breaker open: 3 requests in a row failed; no request before {state.until:%Y-%m-%dT%H:%M:%SZ}"
    )


@pytest.mark.usefixtures("opened")
def test_the_breaker_of_another_source_stays_closed(engine: Engine, times: Settings) -> None:
    call(CircuitBreaker(engine, "another", times), alive=True)


@pytest.mark.parametrize("alive", [True, False])
def test_the_result_of_a_request_from_before_it_opened_is_ignored(
    engine: Engine, worker: MakeBreaker, times: Settings, alive: bool
) -> None:
    call(worker(), alive=False)
    late = worker()
    late.admit()
    for _ in range(2):
        call(worker(), alive=False)
    advance(engine, 30)
    late.record_result(alive)
    state = read_state(engine, times)
    assert (state.state, state.failures) == ("open", 3)
    assert 20 < (refusal(worker()).retry_after or 0) <= 30


# Half open


@pytest.mark.usefixtures("opened")
def test_after_the_cooldown_exactly_one_worker_makes_a_trial_request(engine: Engine, worker: MakeBreaker) -> None:
    advance(engine, 61)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(is_admitted, [worker() for _ in range(24)]))
    assert results.count(True) == 1
    assert 50 < (refusal(worker()).retry_after or 0) <= 60


@pytest.mark.usefixtures("opened")
def test_a_response_to_the_trial_closes_the_breaker(engine: Engine, worker: MakeBreaker, times: Settings) -> None:
    advance(engine, 61)
    call(worker(), alive=True)
    assert read_state(engine, times) == CLOSED
    assert is_admitted(worker())
    assert is_admitted(worker())


@pytest.mark.usefixtures("opened")
def test_a_trial_that_fails_opens_the_breaker_again(engine: Engine, worker: MakeBreaker, times: Settings) -> None:
    advance(engine, 61)
    call(worker(), alive=False)
    assert 50 < (refusal(worker()).retry_after or 0) <= 60
    assert read_state(engine, times).failures == 4
    advance(engine, 61)
    assert is_admitted(worker())


@pytest.mark.usefixtures("opened")
def test_a_trial_whose_worker_died_blocks_the_others_until_the_request_deadline(
    engine: Engine, worker: MakeBreaker
) -> None:
    advance(engine, 61)
    worker().admit()
    advance(engine, 59)
    assert (refusal(worker()).retry_after or 0) <= 1
    advance(engine, 2)
    assert is_admitted(worker())


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("alive", [True, False])
def test_the_result_of_a_trial_that_took_too_long_is_ignored(
    engine: Engine, worker: MakeBreaker, times: Settings, alive: bool
) -> None:
    advance(engine, 61)
    frozen, second = worker(), worker()
    frozen.admit()
    advance(engine, 61)
    second.admit()
    frozen.record_result(alive)
    assert read_state(engine, times).state == "half_open"
    refusal(worker())
    second.record_result(True)
    assert read_state(engine, times) == CLOSED


@pytest.mark.usefixtures("opened")
def test_a_withdrawn_trial_is_left_to_another_worker(engine: Engine, worker: MakeBreaker) -> None:
    advance(engine, 61)
    limited = worker()
    limited.admit()
    limited.withdraw()
    assert is_admitted(worker())


@pytest.mark.usefixtures("opened")
def test_a_clock_that_was_set_back_blocks_no_request(engine: Engine, worker: MakeBreaker) -> None:
    advance(engine, -86_400)
    assert is_admitted(worker())
    advance(engine, -86_400)
    assert is_admitted(worker())


# With a real client, upstream and run


@pytest.fixture
def down() -> set[int]:
    """The status that the upstream returns instead of 200; empty: none."""
    return set()


@pytest.fixture
def requests(httpserver: HTTPServer, down: set[int]) -> list[str]:
    """The paths of the requests that reached the upstream."""
    requests: list[str] = []

    def answer(request: Request) -> Response:
        requests.append(request.path)
        return Response("[]", next(iter(down), 200))

    httpserver.expect_request("/prices").respond_with_handler(answer)
    return requests


@pytest.fixture
def desk(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source whose run has two pages, with one request for each."""

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in range(window.cursor["next"] if window.cursor else 0, 2):
            yield Page.of(http.get("/prices"), {"next": number + 1})

    monkeypatch.setenv("DESK_URL", httpserver.url_for("").rstrip("/"))
    return replace(
        canned(name="desk"), fetch=fetch, rate=Rate(), upstreams={"free": Upstream("https://prices.example.com")}
    )


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the waits between retries of a request short and equal."""
    monkeypatch.setattr(backoff, "full_jitter", lambda seconds: seconds / 100)


def make_due(bench: Bench) -> None:
    bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")


def end_cooldown(bench: Bench) -> None:
    bench.rows("UPDATE sources SET breaker_opened_at = breaker_opened_at - interval '61 s'")


@pytest.mark.usefixtures("quick_retries")
def test_a_run_waits_while_the_breaker_is_open_and_continues_when_the_host_is_back(
    bench: Bench, desk: Source, requests: list[str], down: set[int]
) -> None:
    down.add(503)
    run = bench.request(desk)
    short_times = {"breaker_failures": 2, "breaker_cooldown": 60.0, "request_deadline": 30.0}
    waiting = bench.slice(run, **short_times)
    assert len(requests) == 2
    assert waiting["waits"] == 1
    assert waiting["waiting_reason"].startswith(
        "upstream_unavailable: desk: returned 503 for GET /prices; "
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
def test_the_run_of_a_host_that_stays_down_fails_although_the_breaker_blocks_its_retries(
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
def test_a_refusal_counts_as_a_response(
    bench: Bench, desk: Source, requests: list[str], down: set[int], status: int
) -> None:
    bench.register(desk)
    bench.rows("INSERT INTO sources (name, breaker_failures, breaker_opened_at) VALUES ('desk', 9, '2020-01-01Z')")
    down.add(status)
    bench.slice(bench.request(desk), breaker_failures=1)
    assert requests
    assert bench.one("SELECT breaker_opened_at IS NULL AND breaker_failures = 0 FROM sources")


def test_a_trial_that_the_budget_forbids_is_left_to_another_worker(
    bench: Bench, desk: Source, requests: list[str]
) -> None:
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


def test_a_request_that_the_breaker_blocks_is_not_counted(bench: Bench, desk: Source, requests: list[str]) -> None:
    bench.register(desk)
    bench.rows("INSERT INTO sources (name, breaker_failures, breaker_opened_at) VALUES ('desk', 9, clock_timestamp())")
    row = bench.slice(bench.request(desk), breaker_cooldown=60.0)
    assert row["waiting_reason"].startswith("breaker_open: ")
    assert bench.one("SELECT budget_used FROM sources") == 0
    assert requests == []
