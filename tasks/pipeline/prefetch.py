"""One step ahead: what comes next is made ready in another thread, while what came last is being loaded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """The same items, none of which is None, each made in a thread while the last is in use; the first at once."""

    def __init__(self, items: Iterator[T], thread: ThreadPoolExecutor):
        self._items, self._thread, self._log_context = items, thread, copy_context()
        self._made = self._following()

    def __iter__(self) -> Iterator[T]:
        while (item := self._made.result()) is not None:
            self._made = self._following()
            yield item

    def close(self) -> None:
        """Wait for the one that is being made; no other will be."""
        if not self._made.cancel():
            wait([self._made])

    def _following(self) -> Future[T | None]:
        def following() -> T | None:
            return next(self._items, None)

        return self._thread.submit(self._log_context.run, following)
