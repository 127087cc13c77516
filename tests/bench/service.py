"""Kasparro itself, as in production: gunicorn, and Celery workers that take one task at a time."""

from __future__ import annotations

from collections.abc import Mapping
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
from tests.processes import Process, until

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
        self.web: Process | None = None
        self._web_workers = web_workers
        self._started = 0

    def __enter__(self) -> Self:
        self.file.parent.mkdir(parents=True)
        self.valkey.start()
        try:
            self.url = f"http://127.0.0.1:{(port := free_port())}"
            self.web = self._start("web", WEB_PORT=str(port), WEB_WORKERS=str(self._web_workers))
            until(lambda: answers(f"{self.url}/health/live"), within=30, what=f"the API answers; see {self.web.log}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.work_with(0)
        if self.web:
            self.web.kill()
        self.valkey.stop()

    def work_with(self, workers: int) -> None:
        """So many workers there are from now on."""
        while len(self.workers) > workers:
            self.workers.pop().kill()
        while len(self.workers) < workers:
            self.workers.append(self._start("lone worker"))
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
        return self.database.value("SELECT status FROM runs WHERE id = %s", run) not in UNFINISHED

    def _loaded(self, run: str, cost: Cost) -> Load:
        told = requests.get(f"{self.url}/runs/{run}", timeout=30).json()
        assert told["status"] in ("succeeded", "partial"), told
        started, published = self.database.row(
            "SELECT extract(epoch FROM finished_at - started_at), extract(epoch FROM finished_at - requested_at)"
            "  FROM runs WHERE id = %s",
            run,
        )
        return Load(Cost(float(started), cost.wal), float(published), told["counters"])

    def _start(self, role: str, **environ: str) -> Process:
        self._started += 1
        return Process(role, self.folder / f"{role}-{self._started}.log", {**self._environ, **environ})

    @property
    def _environ(self) -> dict[str, str]:
        # Its times and sizes are the defaults.
        return {
            "DATABASE_URL": self.database.url,
            "REDIS_URL": self.valkey.url,
            "CSV_DIR": str(self.folder / "csv"),
            "API_TOKEN": TOKEN,
            "PYTHONWARNINGS": "",
        }


def _consumes(worker: Process) -> bool:
    assert worker.is_running, f"a worker has ended; see {worker.log}"
    return " ready." in worker.log.read_text()
