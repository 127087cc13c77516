"""Compute the next item of an iterator in a thread, while the current item is in use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Yield the items of an iterator. Compute each item in advance, the first immediately. No item may be None."""

    def __init__(self, items: Iterator[T], thread: ThreadPoolExecutor):
        self._items, self._thread, self._log_context = items, thread, copy_context()
        self._next = self._submit()

    def __iter__(self) -> Iterator[T]:
        while (item := self._next.result()) is not None:
            self._next = self._submit()
            yield item

    def close(self) -> None:
        """Stop computing items, and wait for the item in progress."""
        if not self._next.cancel():
            wait([self._next])

    def _submit(self) -> Future[T | None]:
        def compute() -> T | None:
            return next(self._items, None)

        return self._thread.submit(self._log_context.run, compute)
