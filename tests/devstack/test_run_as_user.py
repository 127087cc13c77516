"""Test that servers end with the launcher that started them, even if the launcher is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.process import RUN_AS_USER, wait_gone
from tests.devstack.launching import families, launched

LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux can signal a process when its parent ends"
)


@LINUX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killing_the_launcher_ends_all_processes(folder: Path, number: signal.Signals) -> None:
    with launched(folder) as (launcher, report):
        processes = families(report["pids"])
        launcher.send_signal(number)
        assert len(processes) > 2
        assert wait_gone(processes, 10) == []


def run_as_user(launcher: int, *argv: str) -> list[str]:
    switches = ("--launcher", str(launcher), "--death-signal", str(signal.SIGKILL.value))
    return [sys.executable, "-I", "-S", RUN_AS_USER, *switches, "--", *argv]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_a_command_whose_launcher_has_ended_is_not_run() -> None:
    process = run(run_as_user(0, "/bin/echo", "ran"))
    assert (process.returncode, process.stdout, process.stderr) == (1, "", "The launcher has ended.\n")


def test_a_command_restores_sigint_and_creates_private_files() -> None:
    command = run_as_user(os.getpid(), "/bin/sh", "-c", "umask; kill -INT $$; echo goes on")
    process = run(["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command])
    assert (process.returncode, process.stdout) == (-signal.SIGINT, "0077\n")
