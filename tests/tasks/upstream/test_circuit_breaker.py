"""Test that workers send only one trial request at a time to a failing host."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from settings import Settings
from sources.contract import TransientError
from tasks.upstream.circuit_breaker import CLOSED, BreakerState, CircuitBreaker, read_breakers

MakeBreaker = Callable[[], CircuitBreaker]


@pytest.fixture
def times(settings: Settings) -> Settings:
    """Return settings that open the breaker for a minute after three failures. A trial has a deadline of a minute."""
    return replace(settings, breaker_failures=3, breaker_cooldown=60.0, request_deadline=60.0)


@pytest.fixture
def worker(engine: Engine, times: Settings) -> MakeBreaker:
    """Return a function that creates another worker's breaker for the source `canned`."""
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
    """Move the times of the breaker into the past by this number of seconds."""
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


def test_only_consecutive_failures_open_the_breaker(engine: Engine, worker: MakeBreaker, times: Settings) -> None:
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
def test_an_open_breaker_blocks_all_workers_with_the_reason_and_the_next_attempt(
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
def test_the_result_of_a_request_sent_before_the_breaker_opened_is_ignored(
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
def test_exactly_one_worker_sends_a_trial_request_after_the_cooldown(engine: Engine, worker: MakeBreaker) -> None:
    advance(engine, 61)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(is_admitted, [worker() for _ in range(24)]))
    assert results.count(True) == 1
    assert 50 < (refusal(worker()).retry_after or 0) <= 60


@pytest.mark.usefixtures("opened")
def test_a_response_to_the_trial_request_closes_the_breaker(
    engine: Engine, worker: MakeBreaker, times: Settings
) -> None:
    advance(engine, 61)
    call(worker(), alive=True)
    assert read_state(engine, times) == CLOSED
    assert is_admitted(worker())
    assert is_admitted(worker())


@pytest.mark.usefixtures("opened")
def test_a_failed_trial_request_opens_the_breaker_again(engine: Engine, worker: MakeBreaker, times: Settings) -> None:
    advance(engine, 61)
    call(worker(), alive=False)
    assert 50 < (refusal(worker()).retry_after or 0) <= 60
    assert read_state(engine, times).failures == 4
    advance(engine, 61)
    assert is_admitted(worker())


@pytest.mark.usefixtures("opened")
def test_a_dead_workers_trial_blocks_the_other_workers_until_the_request_deadline(
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
def test_the_result_of_an_expired_trial_is_ignored(
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
def test_another_worker_can_send_a_withdrawn_trial(engine: Engine, worker: MakeBreaker) -> None:
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
