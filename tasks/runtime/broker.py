"""How one tells that a part works; the broker is asked so that no one waits for it."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from settings import Settings, get_settings

TIMEOUT = 0.8
GRACE = 15.0


def broker_accepts_writes() -> bool:
    """True if Redis writes something within a second: one that is full or read-only still answers a ping."""
    return _says(lambda client: bool(client.set("kasparro:written", 1, ex=60)))


def ingest_queue_is_empty() -> bool:
    """Whether no message waits for a worker; False where the broker does not say."""
    return _says(lambda client: client.llen("ingest") == 0)


def _says(question: Callable[[Redis], bool]) -> bool:
    client = Redis.from_url(get_settings().redis_url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)
    try:
        return question(client)
    except RedisError:
        return False
    finally:
        client.close()


def heartbeat_timeout(settings: Settings) -> float:
    """Seconds without a sign of life after which a part counts as down."""
    return 3 * settings.sweep_every + GRACE
