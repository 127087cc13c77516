"""Run Kasparro as in production: gunicorn, and Celery workers that run one task at a time."""

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
from tests.processes import Process, Processes, until, worker_command

SOURCE = "csv_history"
TOKEN = "a-token-of-the-benchmarks-0123456789"
MAX_LOAD_SECONDS = 3600.0


@dataclass(frozen=True)
class Load:
    """A finished run. cost: from start to end. seconds_from_request: from request to end."""

    cost: Cost
    seconds_from_request: float
    counters: Mapping[str, int]


class Service(Processes):
    """The service on one database, with an empty Valkey, a folder with one CSV file, and the default settings."""

    def __init__(self, folder: Path, database: Database, web_workers: int = 2):
        self.database, self.valkey = database, Valkey(folder)
        self.file = folder / "csv" / FILE
        self.workers: list[Process] = []
        environ = {
            "DATABASE_URL": database.url,
            "CSV_DIR": str(folder / "csv"),
            "API_TOKEN": TOKEN,
            "WEB_WORKERS": str(web_workers),
            "PYTHONWARNINGS": "",
            # Killed processes leave files here. They are deleted with the folder.
            "TMPDIR": str(folder),
        }
        super().__init__(folder, environ)

    def __enter__(self) -> Self:
        self.file.parent.mkdir(parents=True)
        self.environ["REDIS_URL"] = self.valkey.start()
        try:
            self.web = self.serve()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.valkey.stop()

    def set_worker_count(self, workers: int) -> None:
        """Start or kill workers until this number of them is running, and wait until they are ready."""
        while len(self.workers) > workers:
            self.workers.pop().kill()
        while len(self.workers) < workers:
            self.workers.append(self.start("worker", worker_command(slots=1)))
        self.until_ready(*self.workers)

    def use_file(self, file: Path) -> None:
        """Replace the service's CSV file with this one."""
        self.file.unlink(missing_ok=True)
        self.file.hardlink_to(file)

    def load(self, **parameters: Any) -> Load:
        """Run a load of the service's CSV file, and wait until it has finished."""
        with self.database.cost() as cost:
            response = requests.post(
                f"{self.web.url}/runs",
                json={"source": SOURCE, **parameters},
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=30,
            )
            assert response.ok, response.text
            run = response.json()["data"][0]["id"]
            until(partial(self._has_ended, run), within=MAX_LOAD_SECONDS, what=f"run {run} finished")
        return self._finished_load(run, cost)

    def _has_ended(self, run: str) -> bool:
        return self.database.value("SELECT status FROM runs WHERE id = %(run)s", run=run) not in UNFINISHED

    def _finished_load(self, run: str, cost: Cost) -> Load:
        document = requests.get(f"{self.web.url}/runs/{run}", timeout=30).json()
        assert document["status"] in ("succeeded", "partial"), document
        seconds, seconds_from_request = self.database.row(
            "SELECT extract(epoch FROM finished_at - started_at), extract(epoch FROM finished_at - requested_at)"
            "  FROM runs WHERE id = %(run)s",
            run=run,
        )
        return Load(Cost(float(seconds), cost.wal), float(seconds_from_request), document["counters"])
