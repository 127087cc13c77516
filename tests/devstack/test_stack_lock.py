"""Test the lock of a data folder: one stack at a time. Leftover processes of an earlier stack are ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from devstack.environment import MARK
from devstack.process import family, wait_gone
from devstack.stack_lock import StackRuns, end_leftovers, lock_holder, lock_stack
from devstack.valkey import Valkey


def test_the_lock_has_one_holder_until_it_is_released(folder: Path) -> None:
    folder.mkdir()
    assert lock_holder(folder) is None
    with lock_stack(folder):
        assert lock_holder(folder) == psutil.Process()
        with pytest.raises(StackRuns, match="already running"), lock_stack(folder):
            pass
    assert lock_holder(folder) is None


def test_only_processes_with_the_mark_of_the_folder_are_ended(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(600)"]

    def start(mark: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=os.environ | {MARK: str(mark)}, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        return process

    ours, other = start(folder), start(tmp_path / "other")
    try:
        processes = family(ours.pid)
        end_leftovers(folder)
        # `ours.poll()` could not tell: end_leftovers may have collected the exit status.
        assert (wait_gone(processes, 0), other.poll()) == ([], None)
    finally:
        for process in (ours, other):
            process.kill()
            process.communicate()


def test_a_server_of_a_killed_stack_is_stopped(folder: Path) -> None:
    with Valkey(folder) as server:
        processes = family(server.pid or 0)
        os.close(server._lock or 0)  # Simulate a dead launcher.
        server._lock = None
        end_leftovers(folder)
        assert wait_gone(processes, 0) == []
