'''Where a fault happens: fresh servers, processes to start and to hurt, the API to ask, SQL to look.

A fault is a function in a module `tests/chaos/faults_*.py` (found by its name):

    from tests.chaos.stage import NotRun, Stage, fault

    @fault("Redis is emptied while runs are queued", short=True)     # short: also in `make test`
    def redis_is_emptied(stage: Stage) -> str:
        """What a reader of the table wants to know: what it is, in a line."""
        stage.request("coingecko", "csv_history")       # POST /runs
        stage.hurt()                                    # from here on the time to recovery is counted
        stage.broker.flushall()
        stage.start("worker"); stage.start("control")   # at the same time: a start takes 2 s
        stage.settle(within=30)                         # every run has ended; the time to recovery ends here
        return "both runs were published anew"          # what was seen

It asserts what is particular to it. The five invariants are checked after each by the runner, which also ends what is
left running. What this machine refuses is `raise NotRun("why")`. The data is compared with the undisturbed run's for
each source that has a run. `stage.incomplete("poisoned")` takes a source out of that which can never be complete.
`stage.expect_undisturbed("mine")`, called first, learns the undisturbed content of a source the suite does not know.

The database and Redis are empty at the start. Beat is not there unless it is started: until then the stage sends the
reconciler's message as beat does, so that no schedule's runs mix in. The clock of stuck runs stands still in
`with stage.outage():`, for the time in which nothing can move (Redis stopped, say), and while no control process or
no worker is ready.
'''

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import redis
import requests
from sqlalchemy import Engine, RowMapping, text
from sqlalchemy.exc import SQLAlchemyError

from devstack.postgres import Postgres
from devstack.process import family
from devstack.valkey import Valkey
from sources.contract import EPOCH
from store.engine import make_engine
from store.tables import Base
from tests.chaos.invariants import Loaded, Row, content_by_source
from tests.chaos.outcome import Outcome
from tests.chaos.pulse import Pulse, carrier
from tests.chaos.servers import TOKEN, Servers
from tests.chaos.service import Service, go_on
from tests.chaos.watch import Watch
from tests.processes import Process, until, until_served
from tests.servers import migrate
from tests.short_times import SHORT_TIMES

WHAT_THE_API_KNOWS = ("DATABASE_URL", "REDIS_URL", "EXTRA_SOURCES")
"""A fault that changes one of these has an API of its own."""

SETTLE_WITHIN = 40.0
UNFINISHED = "('queued', 'running', 'waiting')"


class NotRun(Exception):
    """This machine refuses to make the fault; the message says why."""


@dataclass(frozen=True)
class Fault:
    """act returns what was seen."""

    name: str
    act: Callable[[Stage], str]
    short: bool = False


FAULTS: list[Fault] = []


def fault(name: str, *, short: bool = False) -> Callable[[Callable[[Stage], str]], Callable[[Stage], str]]:
    """Register a fault under the name that the table shows. short: it is also part of `make test`."""

    def register(act: Callable[[Stage], str]) -> Callable[[Stage], str]:
        FAULTS.append(Fault(name, act, short))
        return act

    return register


class Stage(Service):
    """One fault's world; a context manager that leaves no process behind.

    engine:  the database, to look at, each statement a transaction of its own.
    outcome: the fault's row of the table; the runner fills it in.
    Of its processes, and the points at which they are struck, see Service.
    """

    def __init__(self, servers: Servers, folder: Path):
        self.modules = folder / "modules"
        super().__init__(folder, {**servers.environ, "PYTHONPATH": str(self.modules)})
        self.servers, self.valkey = servers, servers.valkey
        self.postgres: Postgres = servers.postgres
        self.base = Loaded({}, [])
        self.undisturbed: dict[str, list[Row]] = {}
        self.outcome = Outcome()
        self.hurt_at: float | None = None
        self._incomplete: set[str] = set()
        self._web: Process | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        self.modules.mkdir()
        self.servers.fresh()
        self._look_at(self.postgres.url)
        self.pulse = self._stack.enter_context(Pulse(lambda: self.environ["REDIS_URL"], self.times["SWEEP_EVERY"]))
        self.watch = self._stack.enter_context(Watch(self))
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self.watch.stop()
            self.kill()
            self.engine.dispose()

    @property
    def times(self) -> dict[str, float]:
        """The short times that the processes run with, in seconds: LEASE, SWEEP_EVERY, PUBLISH_GAP, TASK_SLICE, …"""
        return {name: float(self.environ[name]) for name in SHORT_TIMES}

    def start(self, role: str, command: Sequence[str] = (), **environ: str) -> Process:
        """See Service. Where there is a beat, it sends the reconciler's message."""
        if role == "beat":
            self.pulse.stop()
        return super().start(role, command, **environ)

    def struck(self, point: str, within: float = 20) -> None:
        """See Service. The time to recovery counts from there."""
        super().struck(point, within)
        self.hurt()

    def hurt(self) -> None:
        """Note that the hurt is being done now."""
        self.hurt_at = time.monotonic()

    def age_of_hurt(self) -> float:
        """Seconds since it was done."""
        return time.monotonic() - (self.hurt_at or time.monotonic())

    # Asking

    def api(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Ask the API, as whoever holds the token; raises where the answer is an error."""
        web = self.web()
        answer = requests.request(
            method, web.url + path, json=body or None, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        answered: dict[str, Any] = answer.json()
        return answered

    def request(self, *sources: str, **body: Any) -> list[uuid.UUID]:
        """POST /runs; the run of each source, in order."""
        answered = self.api("POST", "/runs", sources=list(sources), **body)
        return [uuid.UUID(run["id"]) for run in answered["data"]]

    def send(self, task: str, *arguments: Any, **keywords: Any) -> None:
        """Send a message past the API, as another version of the service might have."""
        with carrier(self.environ["REDIS_URL"]) as celery:
            queue = "ingest" if task in ("kasparro.ingest", "kasparro.canary") else "control"
            celery.send_task(task, args=arguments, kwargs=keywords, queue=queue, retry=False)

    def cancel(self, run: uuid.UUID) -> None:
        self.api("POST", f"/runs/{run}/cancel")

    def web(self) -> Process:
        """The suite's API; one of the fault's own where it has servers or sources of its own."""
        if self._web is None:
            shared = self.servers.environ
            if all(self.environ.get(name) == shared.get(name) for name in WHAT_THE_API_KNOWS):
                self._web = self.servers.api()
            else:
                self._web = self.serve()
        until_served(self._web)
        return self._web

    # What this fault has of its own

    def add_sources(self, modules: Mapping[str, str]) -> None:
        """More sources, each a module's name and its code, for what is started from now on."""
        for name, code in modules.items():
            (self.modules / f"{name}.py").write_text(code)
        names = [*filter(None, self.environ.get("EXTRA_SOURCES", "").split(",")), *modules]
        self.environ["EXTRA_SOURCES"] = ",".join(names)
        self._web = None

    def use_postgres(self, server: Postgres) -> None:
        """A Postgres of this fault's own, started and migrated here, stopped and erased at its end. Call it first."""
        self._stack.callback(server.erase)
        self._stack.enter_context(server)
        migrate(server.url)
        self.postgres, self._web = server, None
        self.environ["DATABASE_URL"] = server.url
        with self.watch.looking_away():
            self.engine.dispose()
            self._look_at(server.url)

    def use_valkey(self, server: Valkey) -> None:
        """A Valkey of this fault's own, started here and stopped at its end. Call it first."""
        self._stack.enter_context(server)
        self.valkey, self._web = server, None
        self.environ["REDIS_URL"] = server.url

    # Looking

    @property
    def broker(self) -> redis.Redis:
        return redis.Redis.from_url(self.environ["REDIS_URL"], decode_responses=True, socket_timeout=5)

    def rows(self, query: str, **values: Any) -> list[RowMapping]:
        with self.engine.connect() as connection:
            result = connection.execute(text(query), values)
            return list(result.mappings()) if result.returns_rows else []

    def one(self, query: str, **values: Any) -> Any:
        """The one value that a query gives."""
        [row] = self.rows(query, **values)
        [value] = row.values()
        return value

    def run(self, run: uuid.UUID) -> RowMapping:
        return self.rows("SELECT * FROM runs WHERE id = :run", run=run)[0]

    def settle(self, within: float = SETTLE_WITHIN) -> None:
        """Wait until every run has ended: with that the service has recovered."""
        until(self._all_ended, within=within, what="every run ended")
        if self.hurt_at is not None:
            self.outcome.recovery = max(self.outcome.recovery or 0, time.monotonic() - self.hurt_at)
            self.hurt_at = None

    def _all_ended(self) -> bool:
        try:
            return not self.unfinished()
        except SQLAlchemyError:  # the database itself is being hurt
            return False

    def unfinished(self) -> list[RowMapping]:
        return self.rows(f"SELECT * FROM runs WHERE status IN {UNFINISHED}")

    @contextmanager
    def outage(self) -> Iterator[None]:
        """No run is counted as stuck meanwhile, nor until somebody consumes again. The database answers at its end."""
        self.watch.outages += 1
        try:
            yield
        finally:
            self.watch.outage_until = until(self._now, within=30, what="the database answers") or EPOCH
            self.watch.outages -= 1

    def _now(self) -> datetime | None:
        try:
            now: datetime = self.one("SELECT clock_timestamp()")
        except SQLAlchemyError:
            return None
        return now

    def clear(self) -> None:
        """Nothing is left of what was loaded; who is connected is cut off, which is quicker than another database."""
        self.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        self.rows(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")

    def heal_servers(self) -> None:
        """Whatever a fault that failed has left of them."""
        for server in (self.postgres, self.valkey):
            go_on(family(server.pid) if server.pid else ())
            server.start()

    def end_schedule(self) -> None:
        """Beat asks for no more runs; the reconciler's message goes on."""
        beats = [process for process in self.started if process.role == "beat"]
        for beat in beats:
            beat.kill()
        if beats:
            self.pulse.start()

    # What the runner compares

    def incomplete(self, *sources: str) -> None:
        """Sources whose runs may fail here, and whose data can then not be complete."""
        self._incomplete |= set(sources)

    def compared(self) -> set[str]:
        """The sources that have a run, but for those that cannot be complete."""
        return {row.source for row in self.rows("SELECT DISTINCT source FROM runs")} - self._incomplete

    def failed(self) -> list[RowMapping]:
        """The runs that failed though nothing was said that they may."""
        return [run for run in self.rows("SELECT * FROM runs WHERE status = 'failed'") if run.source in self.compared()]

    def expect_undisturbed(self, *sources: str) -> None:
        """Learn what these sources' data is when nothing happens, in the fault's environment; then begin anew."""
        doomed = [self.start("worker"), self.start("control")]
        self.request(*sources)
        self.settle()
        with self.engine.connect() as connection:
            loaded = content_by_source(connection)
        ended = {run.source: f"{run.status}: {run.error_detail}" for run in self.rows("SELECT * FROM runs")}
        assert loaded.keys() >= set(sources), f"undisturbed, not all of them have data: {ended}"
        self.undisturbed |= {source: loaded[source] for source in sources}
        for process in doomed:
            process.kill()
        self.started = [process for process in self.started if process not in doomed]
        with self.watch.looking_away():
            self.servers.fresh()

    def _look_at(self, url: str) -> None:
        self.engine: Engine = make_engine(url, "chaos", isolation_level="AUTOCOMMIT", pool_size=5)
