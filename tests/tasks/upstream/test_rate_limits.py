"""Test that threads and processes together stay within an upstream's limits, even without Redis."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, text

from settings import Settings, get_settings
from sources.contract import Rate, Source, TransientError
from tasks.upstream import rate_limits as limits
from tasks.upstream.circuit_breaker import CircuitBreaker
from tasks.upstream.rate_limits import make_limiter
from tests.processes import until
from tests.upstreams import canned

MONTH = "date_trunc('month', clock_timestamp())::date"


@pytest.fixture(autouse=True)
def empty_redis(broker: Redis) -> Redis:
    """Return a Redis client without data."""
    return broker


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow more time to count a call, because the machine may be busy."""
    monkeypatch.setattr(limits, "MAX_COUNTING_SECONDS", 30.0)


def source(engine: Engine, per_minute: int | None = None, per_month: int | None = None, name: str = "canned") -> Source:
    """Return a source with these limits, and insert its row."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO sources (name) VALUES (:name)"), {"name": name})
    return canned(name=name, rate=Rate(per_minute, per_month))


def budget(engine: Engine, name: str = "canned") -> tuple[int, date | None]:
    """Return the number of calls that were counted in the budget, and their month."""
    with engine.connect() as connection:
        query = text("SELECT budget_used, budget_month FROM sources WHERE name = :name")
        used, month = connection.execute(query, {"name": name}).one()
    return used, month


def try_calls(engine: Engine, source: Source, times: int) -> list[TransientError | None]:
    """Try this number of calls one after another. Return for each call its error, or None if it was allowed."""
    outcomes: list[TransientError | None] = []
    count_call = make_limiter(engine, source, CircuitBreaker(engine, source.name, get_settings()))
    for _ in range(times):
        try:
            count_call()
        except TransientError as error:
            outcomes.append(error)
        else:
            outcomes.append(None)
    return outcomes


def try_in_threads(engine: Engine, source: Source, threads: int, times: int) -> list[TransientError | None]:
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(try_calls, engine, source, times) for _ in range(threads)]
    return [outcome for future in futures for outcome in future.result()]


# The rate limit


def test_all_threads_together_stay_within_the_limit_per_minute(engine: Engine) -> None:
    outcomes = try_in_threads(engine, source(engine, per_minute=20), threads=8, times=5)
    refused = [error for error in outcomes if error]
    assert len(refused) == 40 - 20
    for error in refused:
        assert (error.code, error.is_failure) == ("rate_limited", False)
        assert error.detail == "canned: the limit of 20 calls per minute is reached"
        assert error.retry_after is not None
        assert 1 <= error.retry_after <= limits.MINUTE + limits.LEEWAY
    assert max(error.retry_after or 0 for error in refused) > 30
    assert budget(engine)[0] == 20


def test_no_window_of_a_minute_has_more_calls_than_allowed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MINUTE", 1.0)
    monkeypatch.setattr(limits, "LEEWAY", 0.0)
    limited = source(engine, per_minute=5)
    count_call = make_limiter(engine, limited, CircuitBreaker(engine, limited.name, get_settings()))
    give_up_at = time.monotonic() + 10
    allowed: list[tuple[float, float]] = []
    while len(allowed) < 12 and time.monotonic() < give_up_at:
        before = time.monotonic()
        try:
            count_call()
        except TransientError:
            continue
        allowed.append((before, time.monotonic()))
        if len(allowed) == 1:  # Make the other calls at the end of this window and in the next one.
            until(lambda: time.monotonic() > allowed[0][0] + 0.8)
    assert len(allowed) == 12
    for (before, _), (_, after) in zip(allowed, allowed[5:], strict=False):
        assert after - before > 1


def test_each_source_has_its_own_limit(engine: Engine) -> None:
    first, second = source(engine, per_minute=1, name="first"), source(engine, per_minute=1, name="second")
    assert try_calls(engine, first, 2)[0] is None
    assert try_calls(engine, second, 1) == [None]


@pytest.mark.parametrize("offset", [-3600, -61, 61, 3600])
def test_a_wrong_host_clock_does_not_change_the_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    limited, real = source(engine, per_minute=6), time.time
    right = try_calls(engine, limited, 2)
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    wrong = try_calls(engine, limited, 2)
    monkeypatch.undo()
    right_again = try_calls(engine, limited, 3)
    assert [error and error.code for error in right + wrong + right_again] == [None] * 6 + ["rate_limited"]
    assert right_again[-1] is not None
    assert (right_again[-1].retry_after or 0) < 70


def test_a_call_is_not_made_if_counting_it_took_too_long(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_COUNTING_SECONDS", 0.2)
    limited = source(engine, per_minute=6)
    with ThreadPoolExecutor(1) as pool, engine.begin() as connection:
        connection.execute(text("SELECT FROM sources FOR UPDATE"))
        caller = pool.submit(try_calls, engine, limited, 1)
        until(lambda: is_waiting_for_a_lock(engine))
        start = time.monotonic()
        until(lambda: time.monotonic() > start + 0.2)
        connection.rollback()
        [error] = caller.result()
    assert error is not None
    assert (error.code, error.retry_after, error.is_failure) == ("rate_limited", 1, False)
    assert error.detail == "canned: counting the call took more than 0.2 s; the call was not made"
    assert try_calls(engine, limited, 1) == [None]


def is_waiting_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")))


# Outages of Redis


def test_the_calls_of_the_last_minute_still_count_after_redis_lost_its_data(engine: Engine, empty_redis: Redis) -> None:
    limited = source(engine, per_minute=6)
    assert try_calls(engine, limited, 4) == [None] * 4
    empty_redis.flushall()
    empty_redis.script_flush()
    empty_redis.client_kill_filter(skipme=True)
    outcomes = try_in_threads(engine, limited, threads=4, times=2)
    assert outcomes.count(None) == 2
    assert budget(engine)[0] == 6


def test_a_busy_source_waits_for_a_minute_after_redis_lost_its_data(engine: Engine, empty_redis: Redis) -> None:
    limited = source(engine, per_minute=6)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE sources SET budget_used = 700, budget_month = {MONTH}"))
    [error] = try_calls(engine, limited, 1)
    assert error is not None
    assert error.retry_after is not None
    assert limits.MINUTE < error.retry_after <= limits.MINUTE + limits.LEEWAY


@pytest.mark.parametrize(
    ("months_ago", "minute_began_last_month", "allowed"),
    [(0, False, 3), (1, False, 6), (0, True, 0), (1, True, 3), (2, True, 6)],
)
def test_calls_still_count_across_a_new_month_after_redis_lost_its_data(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, months_ago: int, minute_began_last_month: bool, allowed: int
) -> None:
    """The budget of a month has counted three calls. Calls of the last minute before this month are unknown."""
    limited = source(engine, per_minute=6)
    with engine.begin() as connection:
        since: Any = connection.scalar(text(f"SELECT extract(epoch FROM clock_timestamp() - {MONTH})::float8"))
        counted = f"UPDATE sources SET budget_used = 3, budget_month = ({MONTH} - :gap * interval '1 month')::date"
        connection.execute(text(counted), {"gap": months_ago})
    if minute_began_last_month:
        monkeypatch.setattr(limits, "MINUTE", since + 10)
    assert try_calls(engine, limited, 7).count(None) == allowed


def test_setting_the_clock_of_redis_back_blocks_calls_for_at_most_a_minute(engine: Engine, empty_redis: Redis) -> None:
    limited = source(engine, per_minute=6)
    assert try_calls(engine, limited, 2) == [None, None]
    [key] = empty_redis.keys("kasparro/calls/*")
    for position, called_at in enumerate(empty_redis.lrange(key, 0, -1)):
        empty_redis.lset(key, position, str(float(called_at) + 86_400_000))
    outcomes = try_calls(engine, limited, 5)
    assert outcomes[:4] == [None] * 4
    assert outcomes[4] is not None
    assert (outcomes[4].retry_after or 0) <= limits.MINUTE + limits.LEEWAY


@pytest.fixture
def no_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the Redis URL to an address where no server listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        address = f"redis://127.0.0.1:{unused.getsockname()[1]}/0"
    monkeypatch.setattr(limits, "get_settings", lambda: replace(settings, redis_url=address))
    limits._script.cache_clear()
    yield
    limits._script.cache_clear()


@pytest.mark.usefixtures("no_redis")
def test_no_call_is_made_while_redis_is_down(engine: Engine) -> None:
    start = time.monotonic()
    [error] = try_calls(engine, source(engine, per_minute=20), 1)
    assert error is not None
    assert (error.code, error.retry_after, error.is_failure) == ("limiter_unreachable", 15, False)
    assert error.detail == "canned: the rate limiter in Redis is unreachable: ConnectionError"
    assert time.monotonic() - start < 3
    assert budget(engine)[0] == 0


@pytest.mark.usefixtures("no_redis")
def test_a_source_without_a_rate_limit_needs_no_redis(engine: Engine) -> None:
    assert try_calls(engine, source(engine), 2) == [None, None]


# The budget


def test_every_call_counts_against_the_monthly_budget(engine: Engine) -> None:
    limited = source(engine, per_month=3)
    outcomes = try_calls(engine, limited, 5)
    assert outcomes[:3] == [None, None, None]
    for error in outcomes[3:]:
        assert error is not None
        assert (error.code, error.is_failure) == ("budget_spent", False)
        assert error.detail == "canned: the budget of 3 calls for this month is used up"
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 31 * 86400
    assert budget(engine)[0] == 3


def test_calls_are_counted_even_without_a_budget(engine: Engine) -> None:
    assert try_calls(engine, source(engine), 4) == [None] * 4
    assert budget(engine)[0] == 4


def test_all_threads_together_stay_within_the_monthly_budget(engine: Engine) -> None:
    outcomes = try_in_threads(engine, source(engine, per_month=10), threads=8, times=4)
    assert outcomes.count(None) == 10
    assert budget(engine)[0] == 10


@pytest.mark.parametrize("months_ago", [1, 2, 13, -2, -13])
def test_a_new_month_has_a_new_budget(engine: Engine, months_ago: int) -> None:
    limited = source(engine, per_month=2)
    with engine.begin() as connection:
        statement = f"UPDATE sources SET budget_used = 2, budget_month = ({MONTH} - :gap * interval '1 month')::date"
        connection.execute(text(statement), {"gap": months_ago})
        this_month: Any = connection.scalar(text(f"SELECT {MONTH}"))
    assert [error and error.code for error in try_calls(engine, limited, 3)] == [None, None, "budget_spent"]
    assert budget(engine) == (2, this_month)


def test_a_clock_that_steps_back_across_the_start_of_a_month_grants_no_second_budget(engine: Engine) -> None:
    limited = source(engine, per_month=3)
    with engine.begin() as connection:
        next_month: Any = connection.scalar(text(f"SELECT ({MONTH} + interval '1 month')::date"))
        connection.execute(text("UPDATE sources SET budget_used = 2, budget_month = :month"), {"month": next_month})
    outcomes = try_calls(engine, limited, 2)
    assert [error and error.code for error in outcomes] == [None, "budget_spent"]
    assert budget(engine) == (3, next_month)


def test_a_run_without_budget_waits_until_the_next_month_starts(engine: Engine) -> None:
    limited = source(engine, per_month=1)
    _, error = try_calls(engine, limited, 2)
    with engine.connect() as connection:
        query = text(f"SELECT clock_timestamp() + :wait * interval '1 second' - ({MONTH} + interval '1 month')")
        assert error is not None
        late: Any = connection.scalar(query, {"wait": error.retry_after})
    assert 0 <= late.total_seconds() < 5
