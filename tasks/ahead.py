"""One step ahead: what comes next is made ready in another thread, while what came last is being loaded."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Generator[T]:
    """The same items, none of which is None, each made while the one before is in use.

    To close it is to wait for the one that is being made.
    """
    log_context = copy_context()

    def following() -> T | None:
        return log_context.run(next, items, None)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        made = thread.submit(following)
        while (item := made.result()) is not None:
            made = thread.submit(following)
            yield item
