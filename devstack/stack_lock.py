"""Lock a data folder for one stack at a time, and end the processes that an earlier stack left behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from devstack.environment import MARK
from devstack.postgres import Postgres
from devstack.process import kill
from devstack.valkey import Valkey


class StackRuns(Exception):
    """Another supervisor holds the lock of this data folder."""


@contextmanager
def lock_stack(folder: Path) -> Iterator[None]:
    """Hold the lock of a data folder during the block, or until this process is killed. Raise StackRuns."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackRuns(f"A stack is already running on {folder}. Stop it first: `make down`.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def lock_holder(folder: Path) -> psutil.Process | None:
    """Return the supervisor that holds the lock of a data folder, or None."""
    with suppress(OSError, ValueError, psutil.NoSuchProcess), (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return psutil.Process(int(lock.read()))
    return None


def end_leftovers(folder: Path) -> None:
    """Kill the processes and stop the servers that a stack left running when its supervisor was killed."""
    leftovers = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(folder):
                leftovers.append(process)
    kill(leftovers)
    for server in (Valkey(folder), Postgres(folder)):
        server.stop_stale()
