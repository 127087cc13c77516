"""Test that `Prefetch` computes one item ahead in a thread, and stops when it is closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import structlog

from sources.contract import TerminalError
from tasks.pipeline.prefetch import Prefetch

TIMEOUT = 10.0


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
        yield thread


def finish_submitted(thread: ThreadPoolExecutor) -> None:
    """Wait until the thread has finished all submitted work."""
    thread.submit(lambda: None).result(TIMEOUT)


def test_items_are_computed_in_the_thread_and_yielded_in_order(thread: ThreadPoolExecutor) -> None:
    names: set[str] = set()

    def items() -> Iterator[int]:
        for number in range(3):
            names.add(threading.current_thread().name)
            yield number

    assert list(Prefetch(items(), thread)) == [0, 1, 2]
    assert names == {"prefetch_0"}


def test_the_first_item_is_computed_before_it_is_requested(thread: ThreadPoolExecutor) -> None:
    computed = threading.Event()

    def items() -> Iterator[int]:
        computed.set()
        yield 1

    Prefetch(items(), thread)
    assert computed.wait(TIMEOUT)


def test_only_one_item_is_computed_ahead_of_the_current_item(thread: ThreadPoolExecutor) -> None:
    computed: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            computed.append(number)
            yield number

    prefetch = iter(Prefetch(items(), thread))
    assert next(prefetch) == 0
    finish_submitted(thread)
    assert computed == [0, 1]


def test_an_error_is_raised_in_place_of_its_item(thread: ThreadPoolExecutor) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise TerminalError("the file is torn")

    prefetch = iter(Prefetch(items(), thread))
    assert next(prefetch) == 1
    with pytest.raises(TerminalError, match="the file is torn"):
        next(prefetch)


def test_closing_waits_for_the_item_that_is_being_computed(thread: ThreadPoolExecutor) -> None:
    started, release, computed = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        started.set()
        assert release.wait(TIMEOUT)
        computed.set()
        yield 1

    prefetch = Prefetch(items(), thread)
    assert started.wait(TIMEOUT)
    with ThreadPoolExecutor() as threads:
        closing = threads.submit(prefetch.close)
        assert wait([closing], timeout=0.05).not_done, "closed while an item was being computed"
        release.set()
        closing.result(TIMEOUT)
    assert computed.is_set()


def test_closing_cancels_an_item_that_is_not_being_computed_yet(thread: ThreadPoolExecutor) -> None:
    computed: list[int] = []
    release = threading.Event()
    thread.submit(release.wait, TIMEOUT)
    prefetch = Prefetch((computed.append(number) or number for number in range(3)), thread)  # type: ignore[func-returns-value]
    prefetch.close()
    release.set()
    finish_submitted(thread)
    assert computed == []


def test_items_are_computed_with_the_log_context_of_the_caller(thread: ThreadPoolExecutor) -> None:
    def runs() -> Iterator[str]:
        for _ in range(2):
            yield structlog.contextvars.get_contextvars().get("run", "none")

    with structlog.contextvars.bound_contextvars(run="a"):
        prefetch = Prefetch(runs(), thread)
    assert list(prefetch) == ["a", "a"]
