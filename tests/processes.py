"""Processes of the service under test, and waiting for what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CELERY = [sys.executable, "-m", "celery", "-A", "tasks.celery"]
ROLES = {
    "worker": [*CELERY, "worker", "-Q", "ingest", "-c", "2", "-n", "worker@%h", "--without-gossip", "--without-mingle"],
    "control": [
        *CELERY,
        "worker",
        "-Q",
        "control",
        "-c",
        "1",
        "-n",
        "control@%h",
        "--without-gossip",
        "--without-mingle",
    ],
    "beat": [*CELERY, "beat"],
    "web": [sys.executable, "-m", "gunicorn", "--config", "app/gunicorn.py"],
}
ROOT = Path(__file__).parent.parent
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
"""Whether this is `make coverage`, which sets this for the processes that it starts."""


class Process:
    """A running part of the service, in a process group of its own. prefix: a command that starts it elsewhere.

    command: in place of the role's own.
    """

    def __init__(
        self,
        role: str,
        log: Path,
        environ: Mapping[str, str],
        prefix: Sequence[str] = (),
        command: Sequence[str] = (),
    ):
        self.role, self.log = role, log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*prefix, *(command or ROLES[role])],
                cwd=ROOT,
                env={
                    **os.environ,
                    "LOG_FORMAT": "json",
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONWARNINGS": "default",
                    **environ,
                },
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float) -> None:
        """Wait until the process has ended by itself."""
        self._process.wait(timeout)

    def signal(self, signum: int) -> None:
        """Send a signal to the process and to all that it forked."""
        os.killpg(self._process.pid, signum)

    def kill(self) -> None:
        """kill -9, children and all; may be called twice."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._process.wait()


def kill_all(processes: Sequence[Process], *, within: float = 8) -> None:
    """Kill processes. Under `make coverage` let each shut down first, since a killed process writes no data."""
    if MEASURED:
        running = [process for process in processes if process.is_running]
        for process in running:
            os.kill(process.pid, signal.SIGTERM)  # not the group: the parent ends its children in order
        with suppress(AssertionError):
            until(lambda: not any(process.is_running for process in running), within=within)
    for process in processes:
        process.kill()


def until(condition: Callable[[], T], *, within: float = 20, what: str = "") -> T:
    """Poll until the condition gives something true, and return that; fails the test after `within` seconds."""
    give_up_at = time.monotonic() + within
    while time.monotonic() < give_up_at:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {within:g} s: {what or condition.__name__}")
