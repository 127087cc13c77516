"""Run one component other than Postgres and Valkey: a line of the Procfile, or the recorded upstreams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from devstack.environment import CHECKOUT
from devstack.process import family, same_user, spawn, terminate

STOP_GRACE = 15.0
"""Seconds. honcho itself kills a process after 5 seconds."""


class Component:
    """A command that can be restarted. Its output goes to a log named after the component."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], logs: Path):
        self.name = name
        self.argv = argv
        self.env = env
        self.log = logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Return the id of the process that does the work. honcho starts it as a session leader."""
        if self._process is None:
            return None
        leaders = [process.pid for process in family(self._process.pid)[1:] if _leads_session(process)]
        return leaders[0] if leaders else self._process.pid

    @property
    def own_pid(self) -> int | None:
        """Return the id of the supervisor's child process: honcho, or the command itself."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        self._process = spawn(
            same_user(), self.argv, log=self.log, death_signal=signal.SIGTERM, env=self.env, cwd=CHECKOUT
        )

    def request_stop(self) -> None:
        """Send SIGTERM without waiting."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop the component and everything that it started."""
        if self._process is not None:
            terminate(self._process, signal.SIGTERM, STOP_GRACE)
            self._process = None


def procfile_components(procfile: Path, env: Mapping[str, str], logs: Path) -> list[Component]:
    """Return one component for each line of the Procfile.

    Each component has its own honcho, since a shared one stops all processes as soon as one of them ends.
    """
    from honcho.environ import parse_procfile

    # honcho lets .env override the real environment, so give it an empty .env file.
    honcho = [sys.executable, "-m", "honcho", "--env", os.devnull, "--procfile", str(procfile), "--no-colour"]
    names = parse_procfile(procfile.read_text(encoding="utf-8")).processes
    return [Component(name, [*honcho, "--no-prefix", "start", name], env, logs) for name in names]


def _leads_session(process: psutil.Process) -> bool:
    try:
        return os.getsid(process.pid) == process.pid
    except ProcessLookupError:
        return False
