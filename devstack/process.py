"""Processes that end when their launcher does, and leave nothing behind when they are stopped."""

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

BECOME = str(Path(__file__).with_name("run_as_user.py"))
ASK_EVERY = 2.0
KILL_GRACE = 10.0
PROBE_TIMEOUT = 30.0


@dataclass(frozen=True)
class Account:
    """The account a process runs as. uid, gid: owner of its files; switches: arguments of devstack/run_as_user.py."""

    name: str
    uid: int
    gid: int
    switches: tuple[str, ...] = ()

    def command(self, argv: Sequence[str | Path], death_signal: int) -> list[str]:
        launcher = ("--launcher", str(os.getpid()), "--death-signal", str(death_signal))
        return [sys.executable, "-I", "-S", BECOME, *launcher, *self.switches, "--", *map(str, argv)]

    def can_run(self, *argv: str | Path) -> bool:
        """Whether a quick command succeeds as this account."""
        command = self.command(argv, signal.SIGKILL)
        try:
            done = subprocess.run(command, cwd="/", env=BARE, capture_output=True, timeout=PROBE_TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def can_write_in(self, folder: Path) -> bool:
        return self.can_run("/bin/sh", "-c", 'cd "$0" && test -w .', folder)


BARE = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
"""The environment of a server: none of the launcher's secrets, locale or PG* variables."""


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
    """Start a command in a session of its own, where a terminal's Ctrl-C does not reach it; its output goes to log.

    Call it from a thread that lives as long as the process shall: it dies with its launching thread.
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
    """The end of a log, from a byte offset on at the earliest."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(since, size - 64_000))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_gone(process: psutil.Process) -> bool:
    """Also of a zombie, which somebody else has to collect."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until processes are gone; returns those that are not."""
    left = list(processes)
    deadline = time.monotonic() + timeout
    while True:
        left = [process for process in left if not is_gone(process)]
        if not left or time.monotonic() > deadline:
            return left
        psutil.wait_procs(left, timeout=0.02)


def kill(processes: Iterable[psutil.Process]) -> None:
    """End processes at once, and wait until they are gone."""
    doomed = list(processes)
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_gone(doomed, KILL_GRACE)


def end(process: subprocess.Popen[bytes], stop_signal: int, grace: float) -> None:
    """Ask a child to stop; after `grace` seconds end it, and in any case what it has left behind."""
    started = family(process.pid)[1:]
    give_up_at = time.monotonic() + grace
    while process.poll() is None:
        if time.monotonic() > give_up_at:
            started += family(process.pid)[1:]
            process.kill()
            break
        # Again and again: one that is just starting a child of its own may miss a signal.
        process.send_signal(stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ASK_EVERY)
    process.wait(KILL_GRACE)
    kill(started)
