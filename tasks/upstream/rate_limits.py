"""Limit requests to upstreams: a rate per minute, counted in Redis, and a monthly budget, counted in Postgres."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError
from sqlalchemy import Engine, text

from settings import get_settings
from sources.contract import Source, TransientError
from sources.http.exchange import CONNECT_TIMEOUT
from tasks.upstream.circuit_breaker import CircuitBreaker

MINUTE = 60.0
"""One minute, in seconds."""

MAX_COUNTING_SECONDS = 1.0
"""Maximum seconds to count a call. A slower call is not made, because it would fall into a later minute."""

LEEWAY = MAX_COUNTING_SECONDS + CONNECT_TIMEOUT
"""Maximum seconds between counting a call and its arrival. The window is longer than a minute by this."""

_UNREACHABLE_WAIT = 15.0
"""Seconds that a run waits if Redis cannot count its calls. An uncounted call could get us banned by the upstream."""

# KEYS[1]: the times of a source's newest calls, newest first. The list never expires. If it is missing, Redis lost its
# data. ARGV[1]: number of calls allowed in the window. ARGV[2]: length of the window in ms. ARGV[3]: number of calls
# that Redis may have lost. The result is the ms to wait, 0 if the call was counted, or -1 if the list is missing and
# ARGV[3] is empty.
_COUNT = """
    local time = redis.call('TIME')
    local now, allowed, window = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[1]), tonumber(ARGV[2])
    local newest = redis.call('LINDEX', KEYS[1], 0)
    if not newest or tonumber(newest) > now then  -- Redis lost its data, or its clock was set back
        if ARGV[3] == '' then return -1 end
        redis.call('DEL', KEYS[1])
        for _ = 1, tonumber(ARGV[3]) do redis.call('LPUSH', KEYS[1], now) end
    end
    local oldest = redis.call('LINDEX', KEYS[1], allowed - 1)
    if oldest and oldest + window > now then return oldest + window - now end
    redis.call('LPUSH', KEYS[1], now)
    redis.call('LTRIM', KEYS[1], 0, allowed - 1)
    return 0
"""


def make_limiter(engine: Engine, source: Source, breaker: CircuitBreaker) -> Callable[[], None]:
    """Return a function to call before each request. It raises TransientError while no request is allowed."""

    def spend_call() -> None:
        breaker.admit()
        try:
            counted_at = time.monotonic()
            _spend_rate(engine, source)
            _spend_budget(engine, source)
            _check_counting_time(source, counted_at)
        except Exception:
            breaker.withdraw()
            raise

    return spend_call


def _spend_rate(engine: Engine, source: Source) -> None:
    if source.rate.per_minute is None:
        return
    try:
        wait = _count(source.name, source.rate.per_minute)
        if wait is None:
            wait = _count(source.name, source.rate.per_minute, _count_possible_calls(engine, source))
    except RedisError as error:
        raise TransientError(
            f"{source.name}: the rate limiter in Redis is unreachable: {type(error).__name__}",
            code="limiter_unreachable",
            retry_after=_UNREACHABLE_WAIT,
            is_failure=False,
        ) from None
    if wait:
        raise TransientError(
            f"{source.name}: the limit of {source.rate.per_minute} calls per minute is reached",
            code="rate_limited",
            retry_after=max(1.0, wait),
            is_failure=False,
        )


def _count(source: str, per_minute: int, lost_calls: int | None = None) -> float | None:
    """Count a call. Return the seconds to wait (0: counted), or None if Redis lost its data and needs `lost_calls`."""
    window = round((MINUTE + LEEWAY) * 1000)
    lost = "" if lost_calls is None else min(lost_calls, per_minute)
    wait: int = _script()(keys=[f"kasparro/calls/{source}"], args=[per_minute, window, lost])
    return None if wait < 0 else wait / 1000


@cache
def _script() -> Script:
    redis = Redis.from_url(get_settings().redis_url, socket_timeout=1, socket_connect_timeout=0.8)
    return redis.register_script(_COUNT)


def _count_possible_calls(engine: Engine, source: Source) -> int:
    """Return an upper limit of the calls in the last minute: all calls that Postgres counted in its month."""
    with engine.connect() as connection:
        calls: int = connection.execute(
            text("""
                SELECT CASE WHEN budget_month = month THEN budget_used
                            WHEN budget_month > month THEN :all  -- a new month began in that minute
                            ELSE 0 END
                  FROM sources, (SELECT date_trunc('month', service_time() - :minute)::date AS month) AS clock
                 WHERE name = :source
            """),
            {"source": source.name, "all": source.rate.per_minute, "minute": timedelta(seconds=MINUTE + LEEWAY)},
        ).scalar_one()
    return calls


def _spend_budget(engine: Engine, source: Source) -> None:
    """Count the call in its own transaction, because it is spent even if its page is not committed.

    The month does not go back with the clock. Otherwise a step back across its start would grant a second budget. A
    month beyond the next one comes from a clock that was far ahead, and does not count.
    """
    with engine.begin() as connection:
        budget_used = connection.scalar(
            text("""
                UPDATE sources
                   SET budget_used = CASE WHEN budget_month BETWEEN this_month AND next_month THEN budget_used + 1
                                          ELSE 1 END,
                       budget_month = CASE WHEN budget_month BETWEEN this_month AND next_month THEN budget_month
                                           ELSE this_month END
                  FROM (SELECT month::date AS this_month, (month + interval '1 month')::date AS next_month
                          FROM date_trunc('month', service_time()) AS month) AS clock
                 WHERE name = :source
                   AND (:budget IS NULL OR budget_used < :budget
                        OR (budget_month BETWEEN this_month AND next_month) IS NOT TRUE)
                RETURNING budget_used
            """),
            {"source": source.name, "budget": source.rate.per_month},
        )
        if budget_used is not None:
            return
        until_next_month: float = connection.execute(
            text("""
                SELECT extract(epoch FROM date_trunc('month', service_time()) + interval '1 month'
                                          - service_time())::float
            """)
        ).scalar_one()
    raise TransientError(
        f"{source.name}: the budget of {source.rate.per_month} calls for this month is used up",
        code="budget_spent",
        retry_after=until_next_month,
        is_failure=False,
    )


def _check_counting_time(source: Source, counted_at: float) -> None:
    """Raise TransientError if counting took too long, for example because the database hung."""
    if source.rate.per_minute is not None and time.monotonic() - counted_at > MAX_COUNTING_SECONDS:
        raise TransientError(
            f"{source.name}: counting the call took more than {MAX_COUNTING_SECONDS:g} s; the call was not made",
            code="rate_limited",
            retry_after=1,
            is_failure=False,
        )
