"""Test the supervisor process of a command: its reported error, and its log lines since this start."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack.process import is_gone
from devstack.stack_lock import lock_holder
from devstack.state_folder import free_port
from devstack.supervised import Supervised, UpFailed
from tests.devstack.stack import wait_until


def ignore_step(step: str) -> None:
    """Do not show the step."""


@pytest.fixture
def supervise(folder: Path) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def start(**environ: str) -> Supervised:
        started.append(Supervised(folder, {**os.environ, "KASPARRO_DATA": str(folder), **environ}))
        return started[-1]

    yield start
    for supervised in started:
        supervised.stop()


def test_an_error_in_the_environment_is_reported_as_the_reason(supervise: Callable[..., Supervised]) -> None:
    port = free_port()
    supervised = supervise(DATABASE_URL=f"postgresql://127.0.0.1:{port}/kasparro")
    with pytest.raises(UpFailed, match=rf"^DATABASE_URL: cannot connect to 127\.0\.0\.1:{port}"):
        supervised.wait_until_serving(ignore_step)


def test_the_error_for_a_killed_supervisor_shows_the_end_of_its_log(
    supervise: Callable[..., Supervised], folder: Path
) -> None:
    log = folder / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True)
    log.write_text("a line of an earlier start\n")
    supervised = supervise()
    wait_until(lambda: lock_holder(folder) is not None)
    supervised.process.kill()
    with pytest.raises(
        UpFailed, match=r"^The supervisor ended without a message\.\nThe end of .*supervisor\.log:\n"
    ) as failed:
        supervised.wait_until_serving(ignore_step)
    assert "earlier" not in str(failed.value)


def test_a_stopped_supervisor_releases_its_folder(supervise: Callable[..., Supervised], folder: Path) -> None:
    supervised = supervise()
    wait_until(lambda: lock_holder(folder) is not None)
    supervisor = lock_holder(folder)
    supervised.stop()
    assert supervisor is not None
    assert is_gone(supervisor)
    assert lock_holder(folder) is None
