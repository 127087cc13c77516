"""Start, stop and kill a real server on 127.0.0.1. Store its data, port and password in a folder."""

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

from devstack.process import SERVER_ENV, Account, family, kill, last_lines, spawn, terminate, wait_gone
from devstack.state_folder import StateFolder, is_port_free, make_folder

START_DEADLINE = 60.0
"""Seconds. A start takes a fraction of a second; recovery after a crash can take longer."""

STOP_GRACE = 30.0
PORT_ATTEMPTS = 3


class ServerFailed(Exception):
    """A server did not start. The message includes the reason and the next step."""


class NotInstalled(ServerFailed):
    """The server is not installed on this machine."""


class FolderInUse(ServerFailed):
    """Another launcher is running a server on this folder."""


class Server(ABC):
    """The base class of Postgres and Valkey. As a context manager, it starts and stops the server.

    folder: contains the data, `kept/` (port, password) and `logs/`. Only one Postgres and one Valkey may use a folder.
    default_port: the port to try first, or None for any free port. The chosen port is stored for the next start.

    On Linux, the server ends with the thread that started it. Start it from a thread that lives as long as the server
    is needed. On other systems, the next start ends a server that was left running.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[int]

    def __init__(self, folder: Path, default_port: int | None = None):
        self.folder = folder.absolute()
        self.default_port = default_port
        self.state = StateFolder(self.folder)
        self.log = make_folder(self.folder / "logs") / f"{self.name}.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Return the URL of the running server, including the password."""

    @abstractmethod
    def _prepare(self) -> None:
        """Create everything that the first start needs. If this is interrupted, the next start must still work."""

    @abstractmethod
    def _command(self) -> tuple[Account, list[str | Path]]:
        """Return the account and the command line that start the server on self.port."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Return whether the server accepts connections. Raise ServerFailed if it cannot become ready."""

    @abstractmethod
    def _find_stale(self) -> psutil.Process | None:
        """Return the server that a killed launcher left running on this data, or None."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def own_pid(self) -> int | None:
        """Return the id of the launcher's child process, which is the server itself."""
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
        """Start the server unless it is running. Return its URL once it is ready. Raise ServerFailed."""
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
        """Shut the server down cleanly, then kill any process that remains."""
        if self._process is not None:
            terminate(self._process, self.stop_signal, STOP_GRACE)
            self._process = None
        self._release_folder()

    def kill(self) -> None:
        """Kill the server, as in a power cut. start() restarts it with all committed data."""
        if self._process is not None:
            processes = family(self._process.pid)
            self._process.kill()
            self._process.wait()
            kill(processes)
            self._process = None

    def _start(self) -> None:
        for _ in range(PORT_ATTEMPTS):
            self.port = self.state.port(self.name, self.default_port)
            since = self.log.stat().st_size if self.log.exists() else 0
            account, argv = self._command()
            self._process = spawn(account, argv, log=self.log, death_signal=self.stop_signal, env=SERVER_ENV, cwd="/")
            if self._wait_until_ready():
                return
            if is_port_free(self.port):
                break  # The port was free, so another port would not help.
        lines = last_lines(self.log, since=since)
        raise ServerFailed(f"{self.name} did not start on 127.0.0.1:{self.port}. The end of {self.log}:\n{lines}")

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + START_DEADLINE
        while self.running:
            if self._is_ready():
                return True
            if time.monotonic() > deadline:
                self.kill()
                return False
            time.sleep(0.01)
        return False

    def stop_stale(self) -> None:
        """Stop a server that a killed launcher left running. Raise FolderInUse."""
        self._take_folder()
        try:
            self._end_stale()
        finally:
            self._release_folder()

    def _end_stale(self) -> None:
        stale = self._find_stale()
        if stale is None:
            return
        processes = family(stale.pid)
        stale.send_signal(self.stop_signal)
        kill(wait_gone(processes, STOP_GRACE))

    def _take_folder(self) -> None:
        if self._lock is not None:
            return
        lock = os.open(self.folder / f"{self.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise FolderInUse(
                f"Another process is running {self.name} in {self.folder}. Stop that process first."
            ) from None
        self._lock = lock

    def _release_folder(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
