"""The processes of the service in a fault's world: started, looked at, and struck at named points."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from devstack.process import family, last_lines
from tests.processes import Process, until

CHILDREN = 2
"""How many tasks a worker has a process for; see tests/processes.py."""

RUNS = (psutil.STATUS_RUNNING, psutil.STATUS_SLEEPING, psutil.STATUS_DISK_SLEEP)


class Service:
    """started: every process, the ended ones too. leaving: those of them that were told to stop.

    environ: what they see; change it before they start. folder: where their logs are.
    """

    def __init__(self, folder: Path, environ: dict[str, str]):
        self.folder, self.faults = folder, folder / "faults"
        self.faults.mkdir(parents=True)
        self.environ = {**environ, "KASPARRO_FAULTS": str(self.faults)}
        self.started: list[Process] = []
        self.leaving: set[Process] = set()
        self._ready: set[Process] = set()

    def start(self, role: str, **environ: str) -> Process:
        """Start a process of the service: worker (two children), control, beat or web. Returns at once."""
        log = self.folder / f"{role}-{len(self.started)}.log"
        process = Process(role, log, {**self.environ, **environ})
        self.started.append(process)
        return process

    def is_ready(self, process: Process) -> bool:
        """Whether a worker or control process consumes, and has not ended or been stopped since."""
        if process not in self._ready and " ready." in process.log.read_text():
            self._ready.add(process)
        return process in self._ready and _status(process.pid) in RUNS

    def has_ended(self, process: Process) -> bool:
        return _status(process.pid) in (None, psutil.STATUS_ZOMBIE)

    def until_ready(self, *started: Process) -> None:
        for process in started:
            until(partial(self._is_ready_or_ended, process), within=30, what=f"ready; see {process.log}")

    def _is_ready_or_ended(self, process: Process) -> bool:
        assert not self.has_ended(process), f"{process.role} has ended: {last_lines(process.log, 3)}"
        return self.is_ready(process)

    def children(self, process: Process) -> list[psutil.Process]:
        """What a worker forked and that is alive, stopped or not."""
        return family(process.pid)[1:]

    def slots(self) -> int:
        """How many slices the workers that consume could have in hand, the frozen ones' left out."""
        workers = [process for process in self.started if process.role == "worker" and self.is_ready(process)]
        frozen = sum(_status(child) == psutil.STATUS_STOPPED for it in workers for child in self.children(it))
        return CHILDREN * len(workers) - frozen

    def is_controlled(self) -> bool:
        """Whether a reconciler would answer now."""
        return any(process.role == "control" and self.is_ready(process) for process in self.started)

    def stopped(self) -> list[psutil.Process]:
        """The processes of this fault that are frozen with SIGSTOP."""
        started = [it for process in self.started for it in family(process.pid)]
        return [process for process in started if _status(process) == psutil.STATUS_STOPPED]

    def arm(self, point: str, signal: str) -> None:
        """The first process to come to the point sends itself SIGKILL or SIGSTOP. See tasks/runtime/fault_points.py."""
        armed = self.faults / f".{point}"
        armed.write_text(signal)
        armed.rename(self.faults / point)  # at once, or a worker could read it empty

    def disarm(self) -> None:
        for armed in self.faults.iterdir():
            armed.unlink(missing_ok=True)

    def struck(self, point: str, within: float = 20) -> None:
        """Wait until the point has struck."""
        until(lambda: not (self.faults / point).exists(), within=within, what=f"a process came to {point}")


def go_on(processes: Iterable[psutil.Process]) -> None:
    """Continue what is frozen, if it has not ended meanwhile."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def _status(process: psutil.Process | int) -> str | None:
    """None where it has ended."""
    try:
        return (psutil.Process(process) if isinstance(process, int) else process).status()
    except psutil.NoSuchProcess:
        return None
