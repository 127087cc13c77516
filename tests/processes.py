"""Start processes of the service under test, and wait for conditions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import requests

from devstack.process import last_lines
from devstack.state_folder import free_port

T = TypeVar("T")
PORT = "{port}"

ROOT = Path(__file__).parent.parent
CELERY = (sys.executable, "-m", "celery", "-A", "tasks.celery")
SLOTS = 2
"""The number of tasks that a worker runs concurrently, each in a child process."""


def worker_command(name: str = "worker", queue: str = "ingest", slots: int = SLOTS) -> list[str]:
    """Return the command of a Celery worker that consumes one queue."""
    options = ("-Q", queue, "-c", str(slots), "-n", f"{name}@%h", "--without-gossip", "--without-mingle")
    return [*CELERY, "worker", *options]


ROLES = {
    "worker": worker_command(),
    "control": worker_command("control", "control", 1),
    "beat": [*CELERY, "beat"],
    "web": [sys.executable, "-m", "gunicorn", "--config", "app/gunicorn.py"],
}
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
"""Whether `make coverage` runs the tests. It sets this variable for the processes that it starts."""


class Process:
    """A running process of the service, in its own process group.

    prefix: a command that runs this process, such as on another host.
    command: replaces the command of the role.
    url: the base URL of a process that serves HTTP; set by Processes.serve.
    """

    url: str
    _was_ready = False

    def __init__(
        self,
        role: str,
        log: Path,
        environ: Mapping[str, str],
        prefix: Sequence[str] = (),
        command: Sequence[str] = (),
    ):
        self.role, self.log = role, log
        defaults = {"LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default"}
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*prefix, *(command or ROLES[role])],
                cwd=ROOT,
                env={**os.environ, **defaults, **environ},
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

    def was_ready(self) -> bool:
        """Return whether a worker or control process has started to consume messages."""
        self._was_ready = self._was_ready or " ready." in self.log.read_text()
        return self._was_ready

    def assert_running(self) -> None:
        assert self.is_running, f"{self.role} has ended: {last_lines(self.log, 3)}"

    def wait(self, timeout: float) -> None:
        """Wait until the process has ended by itself."""
        self._process.wait(timeout)

    def signal(self, signum: int) -> None:
        """Send a signal to the process and to all its children."""
        os.killpg(self._process.pid, signum)

    def kill(self) -> None:
        """Kill the process and its children. A second call does nothing."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._process.wait()


def kill_all(processes: Sequence[Process], *, within: float = 8) -> None:
    """Kill processes. Under `make coverage`, let them exit first, since a killed process writes no coverage data."""
    if MEASURED:
        running = [process for process in processes if process.is_running]
        for process in running:
            os.kill(process.pid, signal.SIGTERM)  # Signal only the parent, which ends its children in order.
        with suppress(AssertionError):
            until(lambda: not any(process.is_running for process in running), within=within)
    for process in processes:
        process.kill()


class Processes:
    """A starter of service processes, each with its own log in `folder`.

    environ: added to the caller's environment. Change it before starting a process.
    started: the processes in the order of their starts.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]):
        self.folder, self.environ = folder, dict(environ)
        self.started: list[Process] = []

    def start(self, role: str, command: Sequence[str] = (), **environ: str) -> Process:
        """Start a worker, control, beat or web process, without waiting until it is ready."""
        log = self.folder / f"{role}-{len(self.started)}.log"
        process = Process(role, log, {**self.environ, **environ}, command=command)
        self.started.append(process)
        return process

    def serve(
        self, role: str = "web", path: str = "/health/live", command: Sequence[str] = (), **environ: str
    ) -> Process:
        """Start a process that serves HTTP, the API by default. Return it once it responds on this path.

        The process reads its port from the variable WEB_PORT. In a command, the port also replaces the argument PORT.
        """
        port = str(free_port())
        command = [port if argument == PORT else argument for argument in command]
        process = self.start(role, command, **{"WEB_PORT": port, **environ})
        process.url = f"http://127.0.0.1:{port}"
        until_served(process, path)
        return process

    def is_ready(self, process: Process) -> bool:
        """Return whether a worker or control process is consuming messages."""
        return process.was_ready()

    def until_ready(self, *processes: Process) -> None:
        for process in processes:
            until(partial(self._is_ready, process), within=30, what=f"ready; see {process.log}")

    def _is_ready(self, process: Process) -> bool:
        process.assert_running()
        return self.is_ready(process)

    def kill(self) -> None:
        kill_all(self.started)


def until_served(process: Process, path: str = "/health/live") -> None:
    """Wait until a process responds on this path."""
    until(partial(_responds, process, path), within=30, what=f"{process.role} responds; see {process.log}")


def _responds(process: Process, path: str) -> bool:
    process.assert_running()  # Otherwise another process may have taken its port.
    try:
        return requests.get(process.url + path, timeout=5).ok
    except requests.RequestException:
        return False


def until(condition: Callable[[], T], *, within: float = 20, what: str = "") -> T:
    """Poll until the condition returns a true value, and return that value. Fail the test after `within` seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {within:g} s: {what or condition.__name__}")
