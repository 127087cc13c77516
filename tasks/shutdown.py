"""Whether this worker was told to stop: then a slice ends at its next page, and its run goes on elsewhere."""

from __future__ import annotations

import mmap
from typing import Any

from celery.signals import worker_shutting_down

# One byte that the worker shares with the processes it forks: the signal reaches it alone.
_TOLD = mmap.mmap(-1, 1)


def told_to_stop() -> bool:
    return _TOLD[0] == 1


@worker_shutting_down.connect
def _pass_on(**_: Any) -> None:
    _TOLD[0] = 1
