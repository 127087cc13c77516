"""One process of the stack that is not a server of data: a line of the Procfile under honcho, or the replay server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from devstack.environment import CHECKOUT
from devstack.process import end, family, same_user, spawn

STOP_GRACE = 15.0
"""Seconds. honcho itself ends what has not stopped after 5."""


class Component:
    """A command that can be started again; its output goes to a log of its own name."""

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
        """The process that does the work: honcho starts it in a session that it leads."""
        if self._process is None:
            return None
        leaders = [one.pid for one in family(self._process.pid)[1:] if _leads_session(one)]
        return leaders[0] if leaders else self._process.pid

    @property
    def own_pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        self._process = spawn(
            same_user(), self.argv, log=self.log, death_signal=signal.SIGTERM, env=self.env, cwd=CHECKOUT
        )

    def ask_to_stop(self) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process, signal.SIGTERM, STOP_GRACE)
            self._process = None


def procfile_components(procfile: Path, env: Mapping[str, str], logs: Path) -> list[Component]:
    """A honcho for each line, since one honcho ends all its processes when one of them ends."""
    from honcho.environ import parse_procfile

    # Its own way with .env would let that overrule the real environment.
    honcho = [sys.executable, "-m", "honcho", "--env", os.devnull, "--procfile", str(procfile), "--no-colour"]
    names = parse_procfile(procfile.read_text(encoding="utf-8")).processes
    return [Component(name, [*honcho, "--no-prefix", "start", name], env, logs) for name in names]


def _leads_session(process: psutil.Process) -> bool:
    try:
        return os.getsid(process.pid) == process.pid
    except ProcessLookupError:
        return False
