"""A host that does not answer is left alone by every worker, and tried by one at a time until it does."""

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
    """Three failures open it, for a minute; a probe keeps the others out for a minute."""
    return replace(settings, breaker_failures=3, breaker_cooldown=60.0, request_deadline=60.0)


@pytest.fixture
def worker(engine: Engine, times: Settings) -> MakeBreaker:
    """The breaker of `canned`, as another worker has it."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO sources (name) VALUES ('canned'), ('another')"))
    return lambda: CircuitBreaker(engine, "canned", times)


def call(worker: CircuitBreaker, alive: bool) -> None:
    worker.admit()
    worker.answered(alive)


def refused(worker: CircuitBreaker) -> TransientError:
    with pytest.raises(TransientError) as caught:
        worker.admit()
    assert caught.value.code == "breaker_open"
    assert not caught.value.is_failure
    return caught.value


def is_let_through(worker: CircuitBreaker) -> bool:
    try:
        worker.admit()
    except TransientError:
        return False
    return True


def stands(engine: Engine, times: Settings) -> BreakerState:
    with engine.connect() as connection:
        return read_breakers(connection, times)["canned"]


def later(engine: Engine, seconds: float) -> None:
    """Let so much time pass for the breaker."""
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


def test_failures_that_are_not_in_a_row_open_nothing(engine: Engine, worker: MakeBreaker, times: Settings) -> None:
    for alive in (False, False, True, False, False):
        call(worker(), alive)
    assert stands(engine, times) == BreakerState("closed", 2, None)
    call(worker(), alive=True)
    assert stands(engine, times) == CLOSED


def test_a_call_that_goes_well_writes_nothing(engine: Engine, worker: MakeBreaker) -> None:
    with engine.connect() as connection:
        row = text("SELECT xmin, ctid FROM sources WHERE name = 'canned'")
        before = connection.execute(row).one()
        for _ in range(3):
            call(worker(), alive=True)
        assert connection.execute(row).one() == before


def test_failures_of_all_workers_count_together(worker: MakeBreaker) -> None:
    workers = [worker() for _ in range(3)]
    for each in workers:
        each.admit()
    for each in workers:
        each.answered(False)
    refused(worker())


# Open


@pytest.mark.usefixtures("opened")
def test_while_open_no_worker_calls_and_each_is_told_why_and_until_when(
    engine: Engine, worker: MakeBreaker, times: Settings
) -> None:
    error = refused(worker())
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 60
    stood = stands(engine, times)
    assert (stood.state, stood.failures) == ("open", 3)
    assert stood.until is not None
    assert error.detail == (
        f"canned: 3 requests in a row failed; no more are made until {stood.until:%Y-%m-%dT%H:%M:%SZ}"
    )


@pytest.mark.usefixtures("opened")
def test_another_sources_host_is_another_matter(engine: Engine, times: Settings) -> None:
    call(CircuitBreaker(engine, "another", times), alive=True)


@pytest.mark.parametrize("alive", [True, False])
def test_what_was_asked_before_it_opened_neither_closes_it_nor_holds_it_open(
    engine: Engine, worker: MakeBreaker, times: Settings, alive: bool
) -> None:
    call(worker(), alive=False)
    late = worker()
    late.admit()
    for _ in range(2):
        call(worker(), alive=False)
    later(engine, 30)
    late.answered(alive)
    stood = stands(engine, times)
    assert (stood.state, stood.failures) == ("open", 3)
    assert 20 < (refused(worker()).retry_after or 0) <= 30


# Half open


@pytest.mark.usefixtures("opened")
def test_of_all_workers_one_tries_the_host_once_it_was_left_alone(engine: Engine, worker: MakeBreaker) -> None:
    later(engine, 61)
    with ThreadPoolExecutor(8) as pool:
        tried = list(pool.map(is_let_through, [worker() for _ in range(24)]))
    assert tried.count(True) == 1
    assert 50 < (refused(worker()).retry_after or 0) <= 60


@pytest.mark.usefixtures("opened")
def test_an_answer_to_the_trial_closes_it(engine: Engine, worker: MakeBreaker, times: Settings) -> None:
    later(engine, 61)
    call(worker(), alive=True)
    assert stands(engine, times) == CLOSED
    assert is_let_through(worker())
    assert is_let_through(worker())


@pytest.mark.usefixtures("opened")
def test_a_trial_that_fails_opens_it_anew(engine: Engine, worker: MakeBreaker, times: Settings) -> None:
    later(engine, 61)
    call(worker(), alive=False)
    assert 50 < (refused(worker()).retry_after or 0) <= 60
    assert stands(engine, times).failures == 4
    later(engine, 61)
    assert is_let_through(worker())


@pytest.mark.usefixtures("opened")
def test_a_trial_whose_worker_died_keeps_the_others_out_for_as_long_as_a_request_may_take(
    engine: Engine, worker: MakeBreaker
) -> None:
    later(engine, 61)
    worker().admit()
    later(engine, 59)
    assert (refused(worker()).retry_after or 0) <= 1
    later(engine, 2)
    assert is_let_through(worker())


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("alive", [True, False])
def test_a_trial_that_took_too_long_has_no_say(
    engine: Engine, worker: MakeBreaker, times: Settings, alive: bool
) -> None:
    later(engine, 61)
    frozen, second = worker(), worker()
    frozen.admit()
    later(engine, 61)
    second.admit()
    frozen.answered(alive)
    assert stands(engine, times).state == "half_open"
    refused(worker())
    second.answered(True)
    assert stands(engine, times) == CLOSED


@pytest.mark.usefixtures("opened")
def test_a_trial_that_is_not_made_leaves_its_turn_to_another(engine: Engine, worker: MakeBreaker) -> None:
    later(engine, 61)
    limited = worker()
    limited.admit()
    limited.withdraw()
    assert is_let_through(worker())


@pytest.mark.usefixtures("opened")
def test_a_clock_that_was_set_back_keeps_nobody_out(engine: Engine, worker: MakeBreaker) -> None:
    later(engine, -86_400)
    assert is_let_through(worker())
    later(engine, -86_400)
    assert is_let_through(worker())


# With a real client, a real upstream and real runs


@pytest.fixture
def down() -> set[int]:
    """The status that the upstream answers with in place of 200, where there is one."""
    return set()


@pytest.fixture
def asked(httpserver: HTTPServer, down: set[int]) -> list[str]:
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.path)
        return Response("[]", next(iter(down), 200))

    httpserver.expect_request("/prices").respond_with_handler(answer)
    return asked


@pytest.fixture
def desk(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source that makes one request a page, of which its run has two."""

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in range(window.cursor["next"] if window.cursor else 0, 2):
            yield Page.of(http.get("/prices"), {"next": number + 1})

    monkeypatch.setenv("DESK_URL", httpserver.url_for("").rstrip("/"))
    return replace(
        canned(name="desk"), fetch=fetch, rate=Rate(), upstreams={"free": Upstream("https://prices.example.com")}
    )


@pytest.fixture
def quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the chance out of the pauses between a request's repeats, and most of their length."""
    monkeypatch.setattr(backoff, "full_jitter", lambda seconds: seconds / 100)


def due(bench: Bench) -> None:
    bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")


def left_alone_for_a_minute(bench: Bench) -> None:
    bench.rows("UPDATE sources SET breaker_opened_at = breaker_opened_at - interval '61 s'")


@pytest.mark.usefixtures("quick_repeats")
def test_a_run_waits_while_the_host_is_left_alone_and_goes_on_when_it_is_back(
    bench: Bench, desk: Source, asked: list[str], down: set[int]
) -> None:
    down.add(503)
    run = bench.request(desk)
    short = {"breaker_failures": 2, "breaker_cooldown": 60.0, "request_deadline": 30.0}
    waiting = bench.slice(run, **short)
    assert len(asked) == 2
    assert waiting["waits"] == 1
    assert waiting["waiting_reason"].startswith(
        "upstream_unavailable: desk: answered 503 to GET /prices; desk: 2 requests in a row failed; no more are made"
    )
    assert bench.one("SELECT next_attempt_at > clock_timestamp() + interval '50 s' FROM runs")

    due(bench)
    waiting = bench.slice(run, **short)
    assert len(asked) == 2
    assert waiting["waits"] == 1
    assert waiting["waiting_reason"].startswith("breaker_open: desk: 2 requests in a row failed")

    down.clear()
    left_alone_for_a_minute(bench)
    due(bench)
    assert bench.slice(run, **short)["status"] == "succeeded"
    assert len(asked) == 4
    assert bench.one("SELECT breaker_failures FROM sources") == 0


@pytest.mark.usefixtures("quick_repeats")
def test_a_host_that_stays_down_is_given_up_though_its_repeats_are_held_back(
    bench: Bench, desk: Source, asked: list[str], down: set[int]
) -> None:
    down.add(500)
    run = bench.request(desk)
    for _ in range(4):
        left_alone_for_a_minute(bench)
        due(bench)
        row = bench.slice(run, breaker_failures=1, breaker_cooldown=60.0, request_deadline=30.0, max_waits=3)
    assert (row["status"], row["error_code"]) == ("failed", "upstream_unavailable")
    assert "gave up after 3 waits" in row["error_detail"]
    assert len(asked) == 4


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429])
def test_a_refusal_shows_that_the_host_lives(
    bench: Bench, desk: Source, asked: list[str], down: set[int], status: int
) -> None:
    bench.register(desk)
    bench.rows("INSERT INTO sources (name, breaker_failures, breaker_opened_at) VALUES ('desk', 9, '2020-01-01Z')")
    down.add(status)
    bench.slice(bench.request(desk), breaker_failures=1)
    assert asked
    assert bench.one("SELECT breaker_opened_at IS NULL AND breaker_failures = 0 FROM sources")


def test_a_trial_that_our_own_limit_forbids_is_left_to_another(bench: Bench, desk: Source, asked: list[str]) -> None:
    limited = replace(desk, rate=Rate(per_month=5))
    bench.register(limited)
    bench.rows("""
        INSERT INTO sources (name, breaker_failures, breaker_opened_at, budget_used, budget_month)
        VALUES ('desk', 9, '2020-01-01Z', 5, date_trunc('month', clock_timestamp()))
    """)
    row = bench.slice(bench.request(limited))
    assert row["waiting_reason"].startswith("budget_spent: ")
    assert asked == []
    assert bench.one("SELECT breaker_probe_until IS NULL AND breaker_opened_at IS NOT NULL FROM sources")


def test_a_call_that_the_breaker_holds_back_is_not_spent(bench: Bench, desk: Source, asked: list[str]) -> None:
    bench.register(desk)
    bench.rows("INSERT INTO sources (name, breaker_failures, breaker_opened_at) VALUES ('desk', 9, clock_timestamp())")
    row = bench.slice(bench.request(desk), breaker_cooldown=60.0)
    assert row["waiting_reason"].startswith("breaker_open: ")
    assert bench.one("SELECT budget_used FROM sources") == 0
    assert asked == []
