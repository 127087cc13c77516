'''Give each fault its own stage: empty servers, processes to start and to break, the API, and SQL.

A fault is a function in a module `tests/chaos/faults_*.py`. The suite finds these modules by their names:

    from tests.chaos.registry import NotRun, fault
    from tests.chaos.stage import Stage

    @fault("Redis emptied while runs are queued", short=True)   # short: also part of `make test`
    def redis_emptied(stage: Stage) -> str:
        """Describe the fault in one line."""
        stage.request("coingecko", "csv_history")       # POST /runs
        stage.mark_fault()                              # the time to recovery starts here
        stage.broker.flushall()
        stage.start("worker"); stage.start("control")   # start both together, since each start takes 2 s
        stage.settle(within=30)                         # wait for all runs; the time to recovery ends here
        return "both runs were published again"         # the result, for the table

The function asserts what is special about its fault. Afterwards the runner checks the five invariants and ends the
remaining processes. If this machine cannot produce the fault, `raise NotRun("reason")`.

The runner compares the data of each source that has a run with that of an undisturbed run. Exclude a source that
cannot be complete with `stage.allow_incomplete("poisoned")`. For a source that the suite does not know, call
`stage.record_expected("mine")` first.

The database and Redis are empty at the start. Until a fault starts beat, the stage sends the reconciler's message as
beat does, so that no scheduled runs interfere. The clock of stuck runs stops in `with stage.outage():`, which is for
times when nothing can move, such as while Redis is stopped. It also stops without a ready worker or control process.
'''

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
import requests
from sqlalchemy import RowMapping

from devstack.postgres import Postgres
from devstack.process import family
from devstack.valkey import Valkey
from sources.contract import EPOCH
from tests.chaos.database import Database
from tests.chaos.invariants import Baseline, Row, content_by_source
from tests.chaos.outcome import Outcome
from tests.chaos.reconcile_sender import ReconcileSender, message_sender
from tests.chaos.servers import TOKEN, Servers
from tests.chaos.service import Service, resume_processes
from tests.chaos.watch import Watch
from tests.processes import Process, until, until_served
from tests.servers import migrate
from tests.short_times import SHORT_TIMES
from tests.standby import Failover

API_SETTINGS = ("DATABASE_URL", "REDIS_URL", "EXTRA_SOURCES")
"""Settings that the API uses. A fault that changes one of them gets its own API process."""

MAX_SETTLE_SECONDS = 40.0


class Stage(Service, Database):
    """The environment of one fault: a context manager that ends every process it started.

    outcome: the fault's row in the table. The runner completes it.
    changed_files: names of files that the fault changes. A run may load their pages again.
    See Service for the processes and their fault points, and Database for queries.
    """

    def __init__(self, servers: Servers, folder: Path):
        self.modules = folder / "modules"
        super().__init__(folder, {**servers.environ, "PYTHONPATH": str(self.modules)})
        self.servers, self.valkey = servers, servers.valkey
        self.postgres: Postgres = servers.postgres
        self.baseline = Baseline({}, [])
        self.expected_rows: dict[str, list[Row]] = {}
        self.outcome = Outcome()
        self.fault_at: float | None = None
        self.changed_files: set[str] = set()
        self._incomplete: set[str] = set()
        self._web: Process | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        self.modules.mkdir()
        self.servers.reset()
        self.connect(self.postgres.url)
        sender = ReconcileSender(lambda: self.environ["REDIS_URL"], self.times["SWEEP_EVERY"])
        self.reconcile_sender = self._stack.enter_context(sender)
        self.watch = self._stack.enter_context(Watch(self))
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self.watch.stop()
            self.kill()
            self.engine.dispose()

    @property
    def times(self) -> dict[str, float]:
        """Return the shortened times of the processes in seconds: LEASE, SWEEP_EVERY, PUBLISH_GAP, TASK_SLICE, …"""
        return {name: float(self.environ[name]) for name in SHORT_TIMES}

    def start(self, role: str, command: Sequence[str] = (), **environ: str) -> Process:
        """Start a process, as Service does. A beat replaces the stage as the sender of the reconciler's message."""
        if role == "beat":
            self.reconcile_sender.stop()
        return super().start(role, command, **environ)

    def wait_until_reached(self, point: str, within: float = 20) -> None:
        """Wait until a process has reached the point, as Service does. Start the time to recovery."""
        super().wait_until_reached(point, within)
        self.mark_fault()

    def mark_fault(self) -> None:
        """Start the time to recovery, or restart it."""
        self.fault_at = time.monotonic()

    def seconds_since_fault(self) -> float:
        """Return the seconds since mark_fault(), or 0 if no fault is marked."""
        return time.monotonic() - (self.fault_at or time.monotonic())

    # Requests

    def api(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Send a request with the API token, and return the JSON of the response. Raise AssertionError for an error."""
        web = self.web()
        response = requests.request(
            method, web.url + path, json=body or None, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
        )
        assert response.ok, f"{method} {path}: {response.status_code} {response.text}"
        document: dict[str, Any] = response.json()
        return document

    def request(self, *sources: str, **body: Any) -> list[uuid.UUID]:
        """Request a run of each source with POST /runs. Return the ids of the runs, in order."""
        document = self.api("POST", "/runs", sources=list(sources), **body)
        return [uuid.UUID(run["id"]) for run in document["data"]]

    def send(self, task: str, *arguments: Any, **keywords: Any) -> None:
        """Send a message without the API, as another version of the service might."""
        with message_sender(self.environ["REDIS_URL"]) as celery:
            queue = "ingest" if task in ("kasparro.ingest", "kasparro.canary") else "control"
            celery.send_task(task, args=arguments, kwargs=keywords, queue=queue, retry=False)

    def cancel(self, run: uuid.UUID) -> None:
        self.api("POST", f"/runs/{run}/cancel")

    def web(self) -> Process:
        """Return the suite's API process, or one for this fault if the fault has its own servers or sources."""
        if self._web is None:
            shared = self.servers.environ
            if all(self.environ.get(name) == shared.get(name) for name in API_SETTINGS):
                self._web = self.servers.api()
            else:
                self._web = self.serve()
        until_served(self._web)
        return self._web

    # Servers and sources of this fault

    def add_sources(self, modules: Mapping[str, str]) -> None:
        """Add sources for the processes started from now on. modules: the code of each source, by module name."""
        for name, code in modules.items():
            (self.modules / f"{name}.py").write_text(code)
        names = [*filter(None, self.environ.get("EXTRA_SOURCES", "").split(",")), *modules]
        self.environ["EXTRA_SOURCES"] = ",".join(names)
        self._web = None

    def use_postgres(self, server: Postgres) -> None:
        """Start and migrate a Postgres for this fault. It is erased at the end. Call this before anything else."""
        self._stack.callback(server.erase)
        self._stack.enter_context(server)
        migrate(server.url)
        self.postgres = server
        self._use_database(server.url)

    def use_valkey(self, server: Valkey) -> None:
        """Start a Valkey for this fault. It is stopped at the end. Call this before anything else."""
        self._stack.enter_context(server)
        self.valkey, self._web = server, None
        self.environ["REDIS_URL"] = server.url

    def use_failover(self) -> Failover:
        """Start a Postgres that can fail over to a standby. Call this before anything else."""
        failover = self._stack.enter_context(Failover(self.folder / "failover", self.servers.cluster()))
        self._use_database(failover.url)
        return failover

    def _use_database(self, url: str) -> None:
        self._web = None
        self.environ["DATABASE_URL"] = url
        with self.watch.suspended():
            self.engine.dispose()
            self.connect(url)

    @property
    def broker(self) -> redis.Redis:
        return redis.Redis.from_url(self.environ["REDIS_URL"], decode_responses=True, socket_timeout=5)

    def settle(self, within: float = MAX_SETTLE_SECONDS) -> None:
        """Wait until every run has finished. This ends the time to recovery."""
        until(self.all_finished, within=within, what="every run finished")
        if self.fault_at is not None:
            self.outcome.recovery = max(self.outcome.recovery or 0, time.monotonic() - self.fault_at)
            self.fault_at = None

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Count no run as stuck during the block, nor until the service works again. Then wait for Postgres."""
        self.watch.outages += 1
        try:
            yield
        finally:
            self.watch.outage_until = until(self.now, within=30, what="the database responds") or EPOCH
            self.watch.outages -= 1

    @contextmanager
    def set_back(self) -> Iterator[None]:
        """Expect the database to lose commits during the block. Start the time to recovery."""
        self.mark_fault()
        with self.outage(), self.watch.accepting_earlier_leases():
            yield

    def restore_servers(self) -> None:
        """Continue and start the servers, in case a failed fault has left them frozen or stopped."""
        for server in (self.postgres, self.valkey):
            resume_processes(family(server.pid) if server.pid else ())
            server.start()

    def stop_beat(self) -> None:
        """Kill beat, so that it requests no further runs. The stage sends the reconciler's message again."""
        beats = [process for process in self.started if process.role == "beat"]
        for beat in beats:
            beat.kill()
        if beats:
            self.reconcile_sender.start()

    # Comparison with the undisturbed run

    def allow_incomplete(self, *sources: str) -> None:
        """Allow failed runs and incomplete data for these sources."""
        self._incomplete |= set(sources)

    def compared_sources(self) -> set[str]:
        """Return the sources that have a run, without those that may be incomplete."""
        return {row.source for row in self.rows("SELECT DISTINCT source FROM runs")} - self._incomplete

    def unexpected_failures(self) -> list[RowMapping]:
        """Return the failed runs of sources that must be complete."""
        sources = self.compared_sources()
        return [run for run in self.rows("SELECT * FROM runs WHERE status = 'failed'") if run.source in sources]

    def record_expected(self, *sources: str) -> None:
        """Record the rows of these sources after undisturbed runs in this environment. Then reset the servers."""
        processes = [self.start("worker"), self.start("control")]
        self.request(*sources)
        self.settle()
        with self.engine.connect() as connection:
            content = content_by_source(connection)
        statuses = {run.source: f"{run.status}: {run.error_detail}" for run in self.rows("SELECT * FROM runs")}
        assert content.keys() >= set(sources), f"some sources have no data after an undisturbed run: {statuses}"
        self.expected_rows |= {source: content[source] for source in sources}
        for process in processes:
            process.kill()
        self.started = [process for process in self.started if process not in processes]
        with self.watch.suspended():
            self.servers.reset()
