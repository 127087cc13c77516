"""A real server on 127.0.0.1, its data, port and password kept in a folder: start, stop and kill it as you like."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from devstack.process import BARE, Account, end, family, kill, last_lines, spawn, wait_gone
from devstack.state_folder import StateFolder, is_port_free, make_folder

START_DEADLINE = 60.0
"""Seconds. A start takes a fraction of one; replaying the log of a crash can take more."""

STOP_GRACE = 30.0
PORT_ATTEMPTS = 3


class ServerFailed(Exception):
    """A server did not come up; the message says why and what to do."""


class NotInstalled(ServerFailed):
    """There is no such server on this machine."""


class FolderInUse(ServerFailed):
    """Another live launcher runs a server on this folder."""


class Server(ABC):
    """What Postgres and Valkey have in common.

    folder:     holds the data, `kept/` (port, password) and `logs/`; one server of a kind at a time.
    usual_port: tried first; None takes any free one. The port is kept, so that a restart has the same.

    As a context manager it starts and stops. It also ends with the process that started it (on Linux at once, elsewhere
    at the next start), so start it from a thread that lives as long as the server shall.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[int]

    def __init__(self, folder: Path, usual_port: int | None = None):
        self.folder = folder.absolute()
        self.usual_port = usual_port
        self.kept = StateFolder(self.folder)
        self.log = make_folder(self.folder / "logs") / f"{self.name}.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the running server is, password included."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make whatever the first start needs. Must survive being killed half-way."""

    @abstractmethod
    def _command(self) -> tuple[Account, list[str | Path]]:
        """How to start the server on self.port."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server can be used. Raises ServerFailed if it never will be."""

    @abstractmethod
    def _stale(self) -> psutil.Process | None:
        """The server that a killed launcher left running on our data."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def own_pid(self) -> int | None:
        """Of the child that the launcher waits for: the server itself."""
        return self.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Start the server unless it runs; returns its URL once it answers. Raises ServerFailed."""
        if self.running:
            return self.url
        self._take_folder()
        try:
            self._end_stale()
            self._prepare()
            self._start()
        except BaseException:
            self.kill()
            self._release_folder()
            raise
        return self.url

    def stop(self) -> None:
        """Stop the server in its own orderly way; nothing of it is left running."""
        if self._process is not None:
            end(self._process, self.stop_signal, STOP_GRACE)
            self._process = None
        self._release_folder()

    def kill(self) -> None:
        """kill -9, as if the power had gone. start() brings it back with all that was committed."""
        if self._process is not None:
            doomed = family(self._process.pid)
            self._process.kill()
            self._process.wait()
            kill(doomed)
            self._process = None

    def _start(self) -> None:
        for _ in range(PORT_ATTEMPTS):
            self.port = self.kept.port(self.name, self.usual_port)
            since = self.log.stat().st_size if self.log.exists() else 0
            account, argv = self._command()
            self._process = spawn(account, argv, log=self.log, death_signal=self.stop_signal, env=BARE, cwd="/")
            if self._wait_until_it_answers():
                return
            if is_port_free(self.port):
                break  # it was not about the port
        said = last_lines(self.log, since=since)
        raise ServerFailed(f"{self.name} did not start on 127.0.0.1:{self.port}. The end of {self.log}:\n{said}")

    def _wait_until_it_answers(self) -> bool:
        deadline = time.monotonic() + START_DEADLINE
        while self.running:
            if self._answers():
                return True
            if time.monotonic() > deadline:
                self.kill()
                return False
            time.sleep(0.01)
        return False

    def stop_stale(self) -> None:
        """Stop the server that a killed launcher left running, if there is one. Raises FolderInUse."""
        self._take_folder()
        try:
            self._end_stale()
        finally:
            self._release_folder()

    def _end_stale(self) -> None:
        stale = self._stale()
        if stale is None:
            return
        left = family(stale.pid)
        stale.send_signal(self.stop_signal)
        kill(wait_gone(left, STOP_GRACE))

    def _take_folder(self) -> None:
        if self._lock is not None:
            return
        lock = os.open(self.folder / f"{self.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise FolderInUse(f"Another process runs the {self.name} of {self.folder}: stop that one first.") from None
        self._lock = lock

    def _release_folder(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
