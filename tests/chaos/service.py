"""Start the service's processes for a fault, report their states, and arm fault points."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from devstack.process import family
from tests.processes import SLOTS, Process, Processes, until

ACTIVE_STATES = (psutil.STATUS_RUNNING, psutil.STATUS_SLEEPING, psutil.STATUS_DISK_SLEEP)


class Service(Processes):
    """The processes of one fault. started: all of them, even if exited. stopping: the ones that received SIGTERM."""

    def __init__(self, folder: Path, environ: dict[str, str]):
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        super().__init__(folder, {**environ, "KASPARRO_FAULTS": str(self.faults)})
        self.stopping: set[Process] = set()

    def is_ready(self, process: Process) -> bool:
        """Return whether a worker or control process consumes messages, and is neither exited nor frozen."""
        return super().is_ready(process) and _status(process.pid) in ACTIVE_STATES

    def has_ended(self, process: Process) -> bool:
        return _status(process.pid) in (None, psutil.STATUS_ZOMBIE)

    def children(self, process: Process) -> list[psutil.Process]:
        """Return the living child processes of a worker, frozen or not."""
        return family(process.pid)[1:]

    def slots(self) -> int:
        """Return the number of slices that the ready workers can run at once, without their frozen processes."""
        workers = [process for process in self.started if process.role == "worker" and self.is_ready(process)]
        frozen = sum(_status(child) == psutil.STATUS_STOPPED for worker in workers for child in self.children(worker))
        return SLOTS * len(workers) - frozen

    def has_reconciler(self) -> bool:
        """Return whether a control process is ready."""
        return any(process.role == "control" and self.is_ready(process) for process in self.started)

    def frozen_processes(self) -> list[psutil.Process]:
        """Return the processes of this fault that are frozen with SIGSTOP."""
        processes = [member for process in self.started for member in family(process.pid)]
        return [process for process in processes if _status(process) == psutil.STATUS_STOPPED]

    def log_entries(self, event: str) -> list[dict[str, Any]]:
        """Return the log entries of an event, from all processes."""
        lines = [line for process in self.started for line in process.log.read_text().splitlines() if event in line]
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == event]

    def resume(self) -> None:
        """Continue all frozen processes."""
        resume_processes(self.frozen_processes())

    def arm(self, point: str, signal: str) -> None:
        """Make the first process that reaches the point send itself a signal. See tasks/runtime/fault_points.py."""
        armed = self.faults / f".{point}"
        armed.write_text(signal)
        armed.rename(self.faults / point)  # Rename atomically, since a worker could read an empty file.

    def disarm(self) -> None:
        for armed in self.faults.iterdir():
            armed.unlink(missing_ok=True)

    def wait_until_reached(self, point: str, within: float = 20) -> None:
        """Wait until a process has reached the point and signaled itself."""
        until(lambda: not (self.faults / point).exists(), within=within, what=f"a process reached {point}")


def resume_processes(processes: Iterable[psutil.Process]) -> None:
    """Continue frozen processes, and ignore those that have exited."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def _status(process: psutil.Process | int) -> str | None:
    """Return the state of a process, or None if it does not exist."""
    try:
        return (psutil.Process(process) if isinstance(process, int) else process).status()
    except psutil.NoSuchProcess:
        return None
