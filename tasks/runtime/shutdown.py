"""Whether this worker was told to stop: then a slice ends at its next page, and its run goes on elsewhere."""

from __future__ import annotations

import mmap
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import billiard.pool
from celery.signals import worker_shutting_down

# A process that ends waits first until the worker has read its last result, for 30 s by default; a worker that ends,
# too, may read no more. Nothing here hangs on a result: what was done is committed.
billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 20  # tenths of a second

# One byte that the worker shares with the processes it forks: many a supervisor signals it alone.
_TOLD = mmap.mmap(-1, 1)

_told_here = False


def is_stopping() -> bool:
    return _told_here or _TOLD[0] == 1


@contextmanager
def finish_page_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the slice at its next page, not its process: other supervisors signal the whole group."""
    global _told_here
    usual = signal.signal(signal.SIGTERM, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)
        _told_here = False  # whoever told this process alone has ended one slice, not all that are to come


def _note(*_: Any) -> None:
    global _told_here
    _told_here = True


@worker_shutting_down.connect
def _pass_on(**_: Any) -> None:
    _TOLD[0] = 1
