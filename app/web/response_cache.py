"""Cache responses in memory, and send them again while the data is unchanged."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from cachetools import TTLCache
from flask import Flask, Response, current_app, g, request

from app.web.context import read_connection
from app.web.etags import Tag, data_version, reuse_tag
from settings import Settings

KEY = "response_cache"
METHODS = ("GET", "HEAD")

MAX_AGE = 10.0
"""Seconds until a response expires: an estimated total can change while the data is unchanged."""

OVERHEAD_BYTES = 1000
"""Added to the size of each response: an upper bound for the memory of everything but its texts."""

RequestKey = tuple[str, bytes]
"""Path and query."""


class CachedResponse(NamedTuple):
    tag: Tag
    body: bytes
    link: str | None
    size: int


class ResponseCache:
    """The cached responses of one process, limited in bytes. The least recently used ones are evicted first."""

    def __init__(self, max_bytes: int, timer: Callable[[], float] = time.monotonic):
        self._responses: TTLCache[RequestKey, CachedResponse] = TTLCache(
            max_bytes, MAX_AGE, timer, getsizeof=lambda cached: cached.size
        )
        self._lock = Lock()

    def find(self, key: RequestKey) -> CachedResponse | None:
        with self._lock:
            return self._responses.get(key)

    def store(self, key: RequestKey, tag: Tag, response: Response) -> None:
        body, link = response.get_data(), response.headers.get("Link")
        size = len(body) + len(link or "") + sum(map(len, key)) + OVERHEAD_BYTES
        with self._lock:
            if size <= self._responses.maxsize:
                self._responses[key] = CachedResponse(tag, body, link, size)


def install(app: Flask, settings: Settings) -> None:
    """Install the cache. Call this after installing every check that can reject a request, such as the bearer token."""
    app.extensions[KEY] = ResponseCache(settings.response_cache_mb * 1024 * 1024)
    app.before_request(_send_cached)
    app.after_request(_store)


def _cache() -> ResponseCache:
    cache: ResponseCache = current_app.extensions[KEY]
    return cache


def _key() -> RequestKey:
    return request.path, request.query_string


def _send_cached() -> Response | None:
    cached = _cache().find(_key()) if request.method in METHODS else None
    if cached is None:
        return None
    with read_connection() as connection:
        if data_version(connection) != cached.tag.state:
            return None
    g.is_cached = True
    reuse_tag(cached.tag)
    return Response(cached.body, headers={"Link": cached.link} if cached.link else {}, mimetype="application/json")


def _store(response: Response) -> Response:
    if "tag" in g and "is_cached" not in g and response.status_code == 200 and response.is_json:
        _cache().store(_key(), g.tag, response)
    return response
