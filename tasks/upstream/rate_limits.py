"""What an upstream allows: a rate shared by all workers through Redis, and a month's budget kept in Postgres."""

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
from sources.http.client import CONNECT_TIMEOUT
from tasks.upstream.circuit_breaker import CircuitBreaker

MINUTE = 60.0
LATEST = 1.0
"""Seconds in which a call that was counted is to be on its way; later, its count no longer speaks for it."""

LEEWAY = LATEST + CONNECT_TIMEOUT
"""Seconds by which a call may arrive later than it was counted, and so come nearer to the ones that follow it."""

_LIMITER_UNREACHABLE = 15.0
"""Seconds a run waits when nobody can say how many calls are left: better late than banned."""

# KEYS: a list of the newest calls of a source, newest first, which never expires: where it is gone, Redis was emptied.
# ARGV: calls that are allowed; in how many ms; how many were perhaps made that Redis does not know of, where it was
# emptied. Gives the ms to wait, 0 for a call that is counted; or -1 where it has to be told that last number.
_COUNT = """
    local time = redis.call('TIME')
    local now, allowed, window = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[1]), tonumber(ARGV[2])
    local newest = redis.call('LINDEX', KEYS[1], 0)
    if not newest or tonumber(newest) > now then  -- nothing is known, or the clock was set back since
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


def spender(engine: Engine, source: Source, breaker: CircuitBreaker) -> Callable[[], None]:
    """What to ask before each call of a source's upstream; raises TransientError while a call is forbidden."""

    def spend() -> None:
        breaker.admit()
        try:
            counted_at = time.monotonic()
            _spend_rate(engine, source)
            _spend_budget(engine, source)
            _check_time(source, counted_at)
        except Exception:
            breaker.withdraw()
            raise

    return spend


def _spend_rate(engine: Engine, source: Source) -> None:
    if source.rate.per_minute is None:
        return
    try:
        wait = _count(source.name, source.rate.per_minute)
        if wait is None:
            wait = _count(source.name, source.rate.per_minute, before=_perhaps_made(engine, source))
    except RedisError as error:
        raise TransientError(
            f"{source.name}: the rate limiter cannot be asked: {type(error).__name__}",
            code="limiter_unreachable",
            retry_after=_LIMITER_UNREACHABLE,
            is_failure=False,
        ) from None
    if wait:
        raise TransientError(
            f"{source.name}: {source.rate.per_minute} calls a minute are used up",
            code="rate_limited",
            retry_after=max(1.0, wait),
            is_failure=False,
        )


def _count(source: str, per_minute: int, before: int | None = None) -> float | None:
    """Count a call, or say how many seconds to wait for that; None where Redis has to be told what came before."""
    window = round((MINUTE + LEEWAY) * 1000)
    told = "" if before is None else min(before, per_minute)
    wait: int = _script()(keys=[f"kasparro/calls/{source}"], args=[per_minute, window, told])
    return None if wait < 0 else wait / 1000


@cache
def _script() -> Script:
    redis = Redis.from_url(get_settings().redis_url, socket_timeout=1, socket_connect_timeout=0.8)
    return redis.register_script(_COUNT)


def _perhaps_made(engine: Engine, source: Source) -> int:
    """The calls that may lie in the last minute as far as Postgres knows: those of its month."""
    with engine.connect() as connection:
        made: int = connection.execute(
            text("""
                SELECT CASE WHEN budget_month = month THEN budget_used
                            WHEN budget_month > month THEN :all  -- it began in that minute, and counts only its own
                            ELSE 0 END
                  FROM sources, (SELECT date_trunc('month', clock_timestamp() - :minute)::date AS month) AS clock
                 WHERE name = :source
            """),
            {"source": source.name, "all": source.rate.per_minute, "minute": timedelta(seconds=MINUTE + LEEWAY)},
        ).scalar_one()
    return made


def _spend_budget(engine: Engine, source: Source) -> None:
    """Count the call, in a transaction of its own: a call is spent whatever becomes of its page."""
    with engine.begin() as connection:
        spent = connection.scalar(
            text("""
                UPDATE sources
                   SET budget_used = CASE WHEN budget_month = this_month THEN budget_used + 1 ELSE 1 END,
                       budget_month = this_month
                  FROM (SELECT date_trunc('month', clock_timestamp())::date AS this_month) AS clock
                 WHERE name = :source
                   AND (:budget IS NULL OR budget_month IS DISTINCT FROM this_month OR budget_used < :budget)
                RETURNING budget_used
            """),
            {"source": source.name, "budget": source.rate.per_month},
        )
        if spent is not None:
            return
        until_next_month: float = connection.execute(
            text("""
                SELECT extract(epoch FROM date_trunc('month', clock_timestamp()) + interval '1 month'
                                          - clock_timestamp())::float
            """)
        ).scalar_one()
    raise TransientError(
        f"{source.name}: this month's {source.rate.per_month} calls are used up",
        code="budget_spent",
        retry_after=until_next_month,
        is_failure=False,
    )


def _check_time(source: Source, counted_at: float) -> None:
    """A call whose counting took long (a database that hung, a frozen process) would be made in another's minute."""
    if source.rate.per_minute is not None and time.monotonic() - counted_at > LATEST:
        raise TransientError(
            f"{source.name}: counting the call took more than {LATEST:g} s, so it is not made",
            code="rate_limited",
            retry_after=1,
            is_failure=False,
        )
