"""Test that a long job is done in short parts, once, and is started again if a part is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.runtime.stepwise import ABANDONED_AFTER, StepwiseJob


class SlowJob:
    """A job of three steps of one second each, on its own clock. steps: the steps done, by the start of the job."""

    def __init__(self) -> None:
        self.now, self.starts = 0.0, 0
        self.steps: list[int] = []
        self.fails = False
        self.job = StepwiseJob(self.start, clock=lambda: self.now)

    def start(self) -> Iterator[None]:
        self.starts += 1
        for step in range(3):
            if self.fails:
                raise OSError("a broken connection")
            self.now += 1
            self.steps.append(step)
            yield


def test_each_part_ends_when_its_time_is_up_and_the_next_continues_there() -> None:
    slow = SlowJob()
    part = slow.job.work(None, seconds=1.5)
    assert slow.steps == [0, 1]
    assert slow.job.work(part, seconds=1.5) is None
    assert (slow.steps, slow.starts) == ([0, 1, 2], 1)


def test_a_job_under_way_is_not_started_twice_and_a_repeated_part_is_ignored() -> None:
    slow = SlowJob()
    first = slow.job.work(None, seconds=1)
    assert slow.job.work(None) is None
    second = slow.job.work(first, seconds=1)
    assert second
    assert slow.job.work(first) is None
    assert slow.steps == [0, 1]


def test_a_job_whose_next_part_is_lost_is_started_again() -> None:
    slow = SlowJob()
    slow.job.work(None, seconds=1)
    slow.now += ABANDONED_AFTER
    assert slow.job.work(None, seconds=9) is None
    assert slow.steps == [0, 0, 1, 2]


def test_a_part_of_another_process_starts_the_job_again() -> None:
    slow = SlowJob()
    assert slow.job.work("a part of a process that has ended", seconds=9) is None
    assert slow.steps == [0, 1, 2]


def test_a_job_that_failed_is_started_again() -> None:
    slow = SlowJob()
    part = slow.job.work(None, seconds=1)
    slow.fails = True
    with pytest.raises(OSError, match="broken"):
        slow.job.work(part)
    slow.fails = False
    assert slow.job.work(None, seconds=9) is None
    assert slow.steps == [0, 0, 1, 2]
