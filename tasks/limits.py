"""What an upstream allows: a rate shared by all workers through Redis, and a month's budget kept in Postgres."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis.exceptions import RedisError
from sqlalchemy import Engine, text

from settings import get_settings
from sources.contract import Source, TransientError

_LIMITER_UNREACHABLE = 15.0
"""Seconds a run waits when nobody can say how many calls are left: better late than banned."""


def spender(engine: Engine, source: Source) -> Callable[[], None]:
    """What to ask before each call of a source's upstream; raises TransientError while a call is forbidden."""

    def spend() -> None:
        _spend_rate(source)
        _spend_budget(engine, source)

    return spend


def _spend_rate(source: Source) -> None:
    if source.rate.per_minute is None:
        return
    allowed = RateLimitItemPerMinute(source.rate.per_minute, namespace="kasparro/moving-window")
    try:
        if _limiter().hit(allowed, source.name):
            return
        free_at = _limiter().get_window_stats(allowed, source.name).reset_time
    except RedisError as error:
        raise TransientError(
            f"{source.name}: the rate limiter cannot be asked: {type(error).__name__}",
            code="limiter_unreachable",
            retry_after=_LIMITER_UNREACHABLE,
        ) from None
    raise TransientError(
        f"{source.name}: {source.rate.per_minute} calls a minute are used up",
        code="rate_limited",
        retry_after=max(1.0, free_at - time.time()),
    )


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
    )


@cache
def _limiter() -> MovingWindowRateLimiter:
    storage = RedisStorage(get_settings().redis_url, socket_timeout=2, socket_connect_timeout=0.8)
    return MovingWindowRateLimiter(storage)
