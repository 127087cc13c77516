"""Run a long job of the control worker in short parts, so that other tasks, such as sweeps, run between them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

PART_SECONDS = 0.5
"""Seconds of work in one part. A part ends with its current step, which takes less than a second."""

ABANDONED_AFTER = 60.0
"""Seconds without a part after which a job is started again, since the message of its next part was lost."""


class StepwiseJob:
    """A job whose position is kept in the memory of this process. Between two parts, it holds no connection.

    start: starts the job; each item that it yields is the end of a step.
    """

    def __init__(self, start: Callable[[], Iterator[None]], clock: Callable[[], float] = time.monotonic):
        self._start, self._clock = start, clock
        self._steps: Iterator[None] | None = None
        self._next_part: str | None = None
        self._worked_at = 0.0

    def work(self, part: str | None, seconds: float | None = None) -> str | None:
        """Do one part of the job. Return the name of its next part, or None if there is nothing more to do.

        part: the name of the part that an earlier call returned; None to start the job, unless it is already under way.
              A part that is already done is ignored. If the process that returned the name has ended, the job starts
              again.
        """
        is_under_way = self._steps is not None and self._clock() - self._worked_at < ABANDONED_AFTER
        if is_under_way and part != self._next_part:
            return None
        steps = self._steps if is_under_way and self._steps is not None else self._start()
        self._steps = self._next_part = None  # After an error, the next call starts the job again.
        until = self._clock() + (PART_SECONDS if seconds is None else seconds)
        for _ in steps:
            if self._clock() >= until:
                self._steps, self._next_part, self._worked_at = steps, uuid.uuid4().hex, self._clock()
                return self._next_part
        return None
