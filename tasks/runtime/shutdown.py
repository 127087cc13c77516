"""Stop a worker gracefully: on SIGTERM, a slice ends after its current page, and another worker continues the run."""

from __future__ import annotations

import mmap
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import billiard.pool
from celery.signals import worker_shutting_down

# Before a forked process exits, it waits until the worker has read its last result, by default for 30 s. A stopping
# worker may never read it. The result is not needed, because all work is committed.
billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 20  # tenths of a second

# One byte shared with the forked processes, because many supervisors signal only the parent.
_WORKER_STOPPING = mmap.mmap(-1, 1)

_process_stopping = False


def is_stopping() -> bool:
    """Return whether this worker, or this process alone, received a signal to stop."""
    return _process_stopping or _WORKER_STOPPING[0] == 1


@contextmanager
def finish_page_on_sigterm() -> Iterator[None]:
    """On SIGTERM, end the slice after its current page, not the process. Some supervisors signal the whole group."""
    global _process_stopping
    previous = signal.signal(signal.SIGTERM, _mark_process)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        _process_stopping = False  # a signal to this process alone ends only the current slice


def _mark_process(*_: Any) -> None:
    global _process_stopping
    _process_stopping = True


@worker_shutting_down.connect
def _mark_worker(**_: Any) -> None:
    _WORKER_STOPPING[0] = 1
