"""What all faults stand on: a Postgres, a Valkey, upstreams that never change, files, and the API."""

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
from tests.short_times import SHORT_TIMES, forget_the_callers_settings

TOKEN = "a-token-of-the-fault-suite-0123456789"
UPSTREAMS = [sys.executable, "-m", "devstack.recorded_upstreams", "--freeze"]
"""The recorded upstreams, with their time frozen: every response stays the same."""


class Servers:
    """Started once for all faults. fresh() gives each fault an empty database and an empty Redis at the same URLs.

    seed: which walk the upstreams' frozen prices take.
    """

    def __init__(self, folder: Path, seed: int, rounds: int = 1):
        self.folder, self.seed, self.rounds = folder, seed, rounds
        self.postgres, self.valkey = MigratedPostgres(folder / "servers"), Valkey(folder / "servers")
        self.csv = folder / "csv"
        self.web: Process | None = None
        self._processes = Processes(folder, {})
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            forget_the_callers_settings()
            self._stack.enter_context(self.postgres)
            self._stack.enter_context(self.valkey)
            self._stack.callback(self._processes.kill)
            command = [*UPSTREAMS, "--port", PORT, "--seed", str(self.seed)]
            self.replay = self._processes.serve("replay", "/healthz", command)
            shutil.copytree(ROOT / "sample_data/csv", self.csv)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def environ(self) -> dict[str, str]:
        """What every process of the service sees."""
        upstreams = {f"{source}_URL": self.replay.url + path for source, path in RECORDED_PATHS.items()}
        # The limits of the free plans are no part of a fault: a kill must not be followed by a wait for the limiter.
        rates = {f"{source}_CALLS_PER_{span}": "1000000" for source in RECORDED_PATHS for span in ("MINUTE", "MONTH")}
        return {
            **SHORT_TIMES,
            **upstreams,
            **rates,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "CSV_DIR": str(self.csv),
            # So small that a run of the files has some sixty pages.
            "CSV_BLOCK_BYTES": "8192",
            # What is hurt is to be the one process that works on a run; with others beside it: faults_assistants.py.
            "RUN_WORKERS": "1",
            "API_TOKEN": TOKEN,
            "WEB_WORKERS": "1",
        }

    def fresh(self) -> None:
        """Nothing is left of the fault before: not a row, not a message, not a setting that it changed."""
        self.postgres.start()
        self.postgres.run_sql("ALTER SYSTEM RESET ALL")
        self.postgres.skip_fsync()
        self.postgres.drop_database(DATABASE)
        self.postgres.create_database(DATABASE)
        self.valkey.stop()
        shutil.rmtree(self.valkey.data, ignore_errors=True)
        self.valkey.start()

    def api(self) -> Process:
        """The API in front of these servers; one for all faults, since it holds nothing."""
        if self.web is None:
            self.web = self._processes.serve(**self.environ)
        return self.web
