"""Whether the broker can be reached, asked so that no one waits for it."""

from __future__ import annotations

from redis import Redis
from redis.exceptions import RedisError

from settings import get_settings

TIMEOUT = 0.8


def broker_answers() -> bool:
    """True if Redis answers a ping within a second."""
    client = Redis.from_url(get_settings().redis_url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()
