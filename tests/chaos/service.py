"""The processes of the service in a fault's world: started, looked at, and struck at named points."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from devstack.process import family
from tests.processes import SLOTS, Process, Processes, until

RUNS = (psutil.STATUS_RUNNING, psutil.STATUS_SLEEPING, psutil.STATUS_DISK_SLEEP)


class Service(Processes):
    """started: every process, the ended ones too. leaving: those of them that were told to stop."""

    def __init__(self, folder: Path, environ: dict[str, str]):
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        super().__init__(folder, {**environ, "KASPARRO_FAULTS": str(self.faults)})
        self.leaving: set[Process] = set()

    def is_ready(self, process: Process) -> bool:
        """Whether a worker or control process consumes, and has not ended or been stopped since."""
        return super().is_ready(process) and _status(process.pid) in RUNS

    def has_ended(self, process: Process) -> bool:
        return _status(process.pid) in (None, psutil.STATUS_ZOMBIE)

    def children(self, process: Process) -> list[psutil.Process]:
        """What a worker forked and that is alive, stopped or not."""
        return family(process.pid)[1:]

    def slots(self) -> int:
        """How many slices the workers that consume could have in hand, the frozen ones' left out."""
        workers = [process for process in self.started if process.role == "worker" and self.is_ready(process)]
        frozen = sum(_status(child) == psutil.STATUS_STOPPED for it in workers for child in self.children(it))
        return SLOTS * len(workers) - frozen

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
