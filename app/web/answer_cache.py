"""Answers that many ask for: kept, and given again while the state of the data that they are of is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from cachetools import TTLCache
from flask import Flask, Response, current_app, g, request

from app.web.context import read_connection
from app.web.etags import Tag, data_version, tag_again
from settings import Settings

KEY = "answer_cache"
METHODS = ("GET", "HEAD")
AGE = 10.0
"""Seconds; the state says nothing of an estimated total, which the planner may know better by now."""

OVERHEAD = 1000
"""Bytes, counted for each answer beside its texts: what else it takes is less."""

Asked = tuple[str, bytes]
"""Path and query."""


class CachedAnswer(NamedTuple):
    tag: Tag
    body: bytes
    link: str | None
    size: int


class AnswerCache:
    """The answers of one process, up to so many bytes; the least recently asked for goes first."""

    def __init__(self, most_bytes: int, timer: Callable[[], float] = time.monotonic):
        self._kept: TTLCache[Asked, CachedAnswer] = TTLCache(most_bytes, AGE, timer, getsizeof=lambda kept: kept.size)
        self._lock = Lock()

    def find(self, asked: Asked) -> CachedAnswer | None:
        with self._lock:
            return self._kept.get(asked)

    def keep(self, asked: Asked, tag: Tag, response: Response) -> None:
        body, link = response.get_data(), response.headers.get("Link")
        size = len(body) + len(link or "") + sum(map(len, asked)) + OVERHEAD
        with self._lock:
            if size <= self._kept.maxsize:
                self._kept[asked] = CachedAnswer(tag, body, link, size)


def install(app: Flask, settings: Settings) -> None:
    """To be called after all that may refuse a request."""
    app.extensions[KEY] = AnswerCache(settings.answer_cache_mb * 1024 * 1024)
    app.before_request(_give)
    app.after_request(_keep)


def _cache() -> AnswerCache:
    found: AnswerCache = current_app.extensions[KEY]
    return found


def _asked() -> Asked:
    return request.path, request.query_string


def _give() -> Response | None:
    kept = _cache().find(_asked()) if request.method in METHODS else None
    if kept is None:
        return None
    with read_connection() as connection:
        if data_version(connection) != kept.tag.state:
            return None
    g.is_kept = True
    tag_again(kept.tag)
    return Response(kept.body, headers={"Link": kept.link} if kept.link else {}, mimetype="application/json")


def _keep(response: Response) -> Response:
    if "tag" in g and "is_kept" not in g and response.status_code == 200 and response.is_json:
        _cache().keep(_asked(), g.tag, response)
    return response
