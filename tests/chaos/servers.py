"""Start the servers that all faults share: Postgres, Valkey, unchanging upstreams, and the API."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from devstack.environment import RECORDED_PATHS
from devstack.postgres import DATABASE
from devstack.valkey import Valkey
from tests.processes import PORT, ROOT, Process, Processes
from tests.servers import MigratedPostgres
from tests.short_times import SHORT_TIMES, remove_caller_settings
from tests.standby import MigratedCluster
from tests.stepped_clock import SteppedPostgres, find_library

TOKEN = "a-token-of-the-fault-suite-0123456789"
UPSTREAMS = [sys.executable, "-m", "devstack.recorded_upstreams", "--freeze"]
"""The recorded upstreams with a frozen clock, so that responses never change."""


class Servers:
    """The servers that all faults share. reset() empties the database and Redis, and keeps their URLs.

    stepped: the Postgres, if its clock can be set. None without libfaketime.
    seed: the seed of the upstreams' prices. rounds: the number of rounds of random interleavings.
    """

    def __init__(self, folder: Path, seed: int, rounds: int = 1):
        self.folder, self.seed, self.rounds = folder, seed, rounds
        library = find_library()
        self.stepped = SteppedPostgres(folder / "servers", library) if library else None
        self.postgres = self.stepped or MigratedPostgres(folder / "servers")
        self.valkey = Valkey(folder / "servers")
        self.csv = folder / "csv"
        self.web: Process | None = None
        self._cluster: MigratedCluster | None = None
        self._processes = Processes(folder, {})
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            remove_caller_settings()
            self._stack.enter_context(self.postgres)
            self._stack.enter_context(self.valkey)
            self._stack.callback(self._processes.kill)
            command = [*UPSTREAMS, "--port", PORT, "--seed", str(self.seed)]
            self.upstreams = self._processes.serve("upstreams", "/healthz", command)
            shutil.copytree(ROOT / "sample_data/csv", self.csv)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of every process of the service."""
        urls = {f"{source}_URL": self.upstreams.url + path for source, path in RECORDED_PATHS.items()}
        # Lift the rate limits of the free plans. Otherwise a run could wait for the limiter after a kill.
        rates = {f"{source}_CALLS_PER_{span}": "1000000" for source in RECORDED_PATHS for span in ("MINUTE", "MONTH")}
        return {
            **SHORT_TIMES,
            **urls,
            **rates,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "CSV_DIR": str(self.csv),
            # Use small blocks, so that a run of the files has about sixty pages.
            "CSV_BLOCK_BYTES": "8192",
            # Use one process for each run, so that the fault affects it. faults_assistants.py tests several.
            "RUN_WORKERS": "1",
            "API_TOKEN": TOKEN,
            "WEB_WORKERS": "1",
        }

    def reset(self) -> None:
        """Remove the rows, messages and changed settings of the previous fault, and set the clock right."""
        self.set_clock(0)
        self.postgres.start()
        self.postgres.run_sql("ALTER SYSTEM RESET ALL")
        self.postgres.run_sql("SELECT pg_reload_conf()")
        self.postgres.drop_database(DATABASE)
        self.postgres.create_database(DATABASE)
        self.valkey.stop()
        shutil.rmtree(self.valkey.data, ignore_errors=True)
        self.valkey.start()

    def set_clock(self, seconds: float) -> None:
        """Set the clock of Postgres to the host's clock plus these seconds, if it can be set."""
        if self.stepped:
            self.stepped.set_clock(seconds)

    def cluster(self) -> MigratedCluster:
        """Return the stopped server that all failovers copy. The first call creates it."""
        if self._cluster is None:
            self._cluster = self._stack.enter_context(MigratedCluster(self.folder / "cluster"))
        return self._cluster

    def api(self) -> Process:
        """Return the API on these servers, started on the first call. All faults share it, since it is stateless."""
        if self.web is None:
            self.web = self._processes.serve(**self.environ)
        return self.web
