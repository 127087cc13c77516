"""Kasparro itself, as in production: gunicorn, and Celery workers that take one task at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from devstack.valkey import Valkey
from store.tables import UNFINISHED
from tests.bench.database import Cost, Database
from tests.bench.sample import FILE
from tests.chaos.servers import answers, free_port
from tests.processes import CELERY, Process, until

LONE_WORKER = [*CELERY, "worker", "-Q", "ingest", "-c", "1", "-n", "worker@%h", "--without-gossip", "--without-mingle"]
"""A worker that takes one task at a time."""

SOURCE = "csv_history"
TOKEN = "a-token-of-the-benchmarks-0123456789"
LONGEST_LOAD = 3600.0


@dataclass(frozen=True)
class Load:
    """What a run took, from its start to its end as the runs table has it; published: from when it was asked for."""

    cost: Cost
    published: float
    counters: Mapping[str, int]


class Service:
    """The service on one database, with an empty Valkey, and a folder with one CSV file."""

    def __init__(self, folder: Path, database: Database, web_workers: int = 2):
        self.folder, self.database = folder, database
        self.valkey = Valkey(folder)
        self.file = folder / "csv" / FILE
        self.workers: list[Process] = []
        self._web_workers = web_workers
        self._started: list[Process] = []

    def __enter__(self) -> Self:
        self.file.parent.mkdir(parents=True)
        self.valkey.start()
        try:
            self.web, self.url = self.serve("web", "/health/live")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.kill()
        self.valkey.stop()

    def work_with(self, workers: int) -> None:
        """So many workers there are from now on."""
        while len(self.workers) > workers:
            self.workers.pop().kill()
        while len(self.workers) < workers:
            self.workers.append(self.start("worker", command=LONE_WORKER))
        for worker in self.workers:
            until(partial(_consumes, worker), within=30, what=f"a worker is ready; see {worker.log}")

    def place(self, file: Path) -> None:
        """Put this file in the place of the one that is there."""
        self.file.unlink(missing_ok=True)
        self.file.hardlink_to(file)

    def load(self, **parameters: Any) -> Load:
        """One run, of the file that is there."""
        with self.database.cost() as cost:
            answer = requests.post(
                f"{self.url}/runs",
                json={"source": SOURCE, **parameters},
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=30,
            )
            assert answer.ok, answer.text
            run = answer.json()["data"][0]["id"]
            until(partial(self._has_ended, run), within=LONGEST_LOAD, what=f"run {run} ended")
        return self._loaded(run, cost)

    def _has_ended(self, run: str) -> bool:
        return self.database.value("SELECT status FROM runs WHERE id = %(run)s", run=run) not in UNFINISHED

    def _loaded(self, run: str, cost: Cost) -> Load:
        told = requests.get(f"{self.url}/runs/{run}", timeout=30).json()
        assert told["status"] in ("succeeded", "partial"), told
        started, published = self.database.row(
            "SELECT extract(epoch FROM finished_at - started_at), extract(epoch FROM finished_at - requested_at)"
            "  FROM runs WHERE id = %(run)s",
            run=run,
        )
        return Load(Cost(float(started), cost.wal), float(published), told["counters"])

    def serve(self, role: str, path: str, command: Sequence[str] = (), **environ: str) -> tuple[Process, str]:
        """Start something that answers HTTP, the API unless told otherwise; gives it and its URL, once it answers."""
        port = free_port()
        process = self.start(role, command, WEB_PORT=str(port), WEB_WORKERS=str(self._web_workers), **environ)
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url + path), within=30, what=f"{role} answers; see {process.log}")
        return process, url

    def start(self, role: str, command: Sequence[str] = (), **environ: str) -> Process:
        """Start a process that is ended with the service."""
        log = self.folder / f"{role}-{len(self._started)}.log"
        self._started.append(Process(role, log, {**self._environ, **environ}, command=command))
        return self._started[-1]

    @property
    def _environ(self) -> dict[str, str]:
        # Its times and sizes are the defaults.
        return {
            "DATABASE_URL": self.database.url,
            "REDIS_URL": self.valkey.url,
            "CSV_DIR": str(self.folder / "csv"),
            "API_TOKEN": TOKEN,
            "PYTHONWARNINGS": "",
            # What a process leaves there that is killed is deleted with the rest.
            "TMPDIR": str(self.folder),
        }


def _consumes(worker: Process) -> bool:
    assert worker.is_running, f"a worker has ended; see {worker.log}"
    return " ready." in worker.log.read_text()
