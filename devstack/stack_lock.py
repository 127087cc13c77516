"""One stack on a data folder: who has it, and what an earlier one left behind."""

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
    """Another supervisor has this data folder."""


@contextmanager
def lock_stack(folder: Path) -> Iterator[None]:
    """The right to run a stack on a data folder; ends with this process at the latest. Raises StackRuns."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackRuns(f"A stack runs on {folder} already.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def lock_holder(folder: Path) -> psutil.Process | None:
    """The supervisor that has a data folder now."""
    with suppress(OSError, ValueError, psutil.NoSuchProcess), (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return psutil.Process(int(lock.read()))
    return None


def end_leftovers(folder: Path) -> None:
    """End what a stack left behind when it and its supervisor were killed at once."""
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(folder):
                marked.append(process)
    kill(marked)
    for server in (Valkey(folder), Postgres(folder)):
        server.stop_stale()
