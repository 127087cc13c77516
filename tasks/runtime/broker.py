"""Check Redis with short timeouts, and define the maximum age of a heartbeat."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from settings import Settings, get_settings

TIMEOUT = 0.8
"""Seconds to wait for Redis."""

HEARTBEAT_GRACE = 15.0
"""Seconds that a heartbeat may be late, in addition to the duration of three sweeps."""


def broker_accepts_writes() -> bool:
    """Return whether Redis stores a value in time. If Redis is full or read-only, it still responds to pings."""
    return _check(lambda client: bool(client.set("kasparro:written", 1, ex=60)))


def ingest_queue_is_empty() -> bool:
    """Return whether the ingest queue is empty. Return False if Redis does not respond."""
    return _check(lambda client: client.llen("ingest") == 0)


def read_value(key: str) -> str | None:
    """Return the text that Redis stores under a key. Return None if there is none, or if Redis does not respond."""
    values: list[str] = []

    def read(client: Redis) -> bool:
        if value := client.get(key):
            values.append(bytes(value).decode(errors="replace"))  # type: ignore[arg-type]  # not awaitable
        return True

    _check(read)
    return values[0] if values else None


def write_value(key: str, value: str) -> bool:
    """Store a text in Redis. Return whether Redis accepted it."""
    return _check(lambda client: bool(client.set(key, value)))


def _check(check: Callable[[Redis], bool]) -> bool:
    client = Redis.from_url(get_settings().redis_url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)
    try:
        return check(client)
    except RedisError:
        return False
    finally:
        client.close()


def heartbeat_timeout(settings: Settings) -> float:
    """Return the seconds without a heartbeat after which a component of the service counts as down."""
    return 3 * settings.sweep_every + HEARTBEAT_GRACE
