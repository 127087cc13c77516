"""Start processes that end when their launcher ends, and stop them together with all their children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

RUN_AS_USER = str(Path(__file__).with_name("run_as_user.py"))
SIGNAL_INTERVAL = 2.0
KILL_TIMEOUT = 10.0
PROBE_TIMEOUT = 30.0


@dataclass(frozen=True)
class Account:
    """The user account that a process runs as.

    uid, gid: the owner of its files on disk.
    switches: the arguments for devstack/run_as_user.py.
    """

    name: str
    uid: int
    gid: int
    switches: tuple[str, ...] = ()

    def command(self, argv: Sequence[str | Path], death_signal: int) -> list[str]:
        """Return the command line that runs argv as this account."""
        launcher = ("--launcher", str(os.getpid()), "--death-signal", str(death_signal))
        return [sys.executable, "-I", "-S", RUN_AS_USER, *launcher, *self.switches, "--", *map(str, argv)]

    def can_run(self, *argv: str | Path) -> bool:
        """Return whether this account can run a short command successfully."""
        command = self.command(argv, signal.SIGKILL)
        try:
            process = subprocess.run(
                command, cwd="/", env=SERVER_ENV, capture_output=True, timeout=PROBE_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return process.returncode == 0

    def can_write_in(self, folder: Path) -> bool:
        return self.can_run("/bin/sh", "-c", 'cd "$0" && test -w .', folder)


SERVER_ENV = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
"""The environment of a data server, without the launcher's secrets, locale and PG* variables."""


def same_user() -> Account:
    return Account("same user", os.geteuid(), os.getegid())


def spawn(
    account: Account,
    argv: Sequence[str | Path],
    *,
    log: Path,
    death_signal: int,
    env: Mapping[str, str],
    cwd: Path | str,
) -> subprocess.Popen[bytes]:
    """Start a command in its own session, so that the terminal's Ctrl-C does not stop it. Append its output to the log.

    The process receives death_signal when the launching thread ends. Call this from a thread that outlives the process.
    """
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        return subprocess.Popen(
            account.command(argv, death_signal),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )


def last_lines(log: Path, count: int = 15, *, since: int = 0) -> str:
    """Return the last lines of a log, ignoring everything before the byte offset `since`."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(since, size - 64_000))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants, or an empty list if the process has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def listens_on(pid: int | None, port: int) -> bool:
    """Return whether a process or one of its descendants listens on this port. Another program may have taken it."""
    for process in family(pid) if pid else []:
        with suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False


def is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended. A zombie counts as ended: only its parent must still collect it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until the processes have ended. Return the processes that still run after `timeout` seconds."""
    remaining = list(processes)
    deadline = time.monotonic() + timeout
    while True:
        remaining = [process for process in remaining if not is_gone(process)]
        if not remaining or time.monotonic() > deadline:
            return remaining
        psutil.wait_procs(remaining, timeout=0.02)


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill processes, and wait until they have ended."""
    targets = list(processes)
    for process in targets:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_gone(targets, KILL_TIMEOUT)


def terminate(process: subprocess.Popen[bytes], stop_signal: int, grace: float) -> None:
    """Send a child its stop signal, and kill it after `grace` seconds. Kill the children that it left running."""
    children = family(process.pid)[1:]
    deadline = time.monotonic() + grace
    while process.poll() is None:
        if time.monotonic() > deadline:
            children += family(process.pid)[1:]
            process.kill()
            break
        # Repeat the signal, since a process that is just starting a child may miss it.
        process.send_signal(stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SIGNAL_INTERVAL)
    process.wait(KILL_TIMEOUT)
    kill(children)
