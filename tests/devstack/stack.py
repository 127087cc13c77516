"""Read the output of a `python -m devstack` command, and list the processes of its stack."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from devstack.environment import MARK

HERE = Path(__file__).parent
STAND_IN = f"exec {sys.executable} {HERE / 'stand_in.py'}"

Devstack = Callable[..., subprocess.Popen[str]]


def finish(command: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a command. Return its exit code and its output."""
    output, _ = command.communicate(timeout=60)
    return command.returncode, output


def stack_file(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "stack.json").read_text())
    return content


def stack_processes(folder: Path) -> list[psutil.Process]:
    """Return the supervisor and all its descendants."""
    supervisor = psutil.Process(stack_file(folder)["pids"]["supervisor"])
    return [supervisor, *supervisor.children(recursive=True)]


def mark(process: psutil.Process) -> str | None:
    """Return the data folder of the stack that a process belongs to, or None."""
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
