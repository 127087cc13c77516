"""What becomes of a page, and of its run, where Postgres is there but in trouble: conflicts, timeouts, a standby."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Connection, Engine, ExceptionContext, event, text
from sqlalchemy.exc import DBAPIError

from sources.contract import Http, Page, Source, Window
from store.engine import make_engine
from store.errors import sqlstate
from tasks.runs.reconciler import reconcile
from tests.processes import until
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED, canned, item

LATER = FETCHED + timedelta(hours=1)


class Watched:
    """What the sessions of an engine went through: the errors' codes, and how often a page was loaded."""

    def __init__(self, engine: Engine):
        self.codes: list[str | None] = []
        self.loads = 0
        event.listen(engine, "handle_error", self._on_error)
        event.listen(engine, "before_cursor_execute", self._on_statement)

    def _on_error(self, context: ExceptionContext) -> None:
        self.codes.append(sqlstate(context.original_exception))

    def _on_statement(self, connection: Connection, cursor: object, statement: str, *_: object) -> None:
        self.loads += "INSERT INTO quotes" in statement


@contextmanager
def as_a_worker(bench: Bench, **options: Any) -> Iterator[tuple[Bench, Watched]]:
    """The bench on an engine of its own, with sessions as `options` say."""
    engine = make_engine(bench.settings.database_url, "sliced", **{"transaction_timeout": 6, **options})
    yield replace(bench, engine=engine, settings=replace(bench.settings, transaction_timeout=6)), Watched(engine)
    engine.dispose()


@pytest.fixture
def rival(bench: Bench) -> Iterator[Connection]:
    """Another client of the database, who has all the time there is, and has taken the one quote there is."""
    bench.ingest(canned([item()]))
    engine = make_engine(bench.settings.database_url, "rival")
    with engine.connect() as connection:
        connection.execute(text("SELECT FROM quotes FOR UPDATE"))
        yield connection
    engine.dispose()


@pytest.fixture
def set_database(bench: Bench) -> Iterator[Callable[..., None]]:
    """Settings for the sessions that begin from now on: set_database(deadlock_timeout="50ms")."""
    name = bench.one("SELECT current_database()")

    def set_database(**settings: str) -> None:
        for setting, value in settings.items():
            bench.rows(f"ALTER DATABASE {name} SET {setting} = '{value}'")

    yield set_database
    bench.rows(f"ALTER DATABASE {name} RESET ALL")


def correction(**changes: Any) -> Source:
    return canned([item(price="2")], fetched_at=LATER, **changes)


def is_waited_for(bench: Bench) -> bool:
    return bool(bench.one("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


def in_time(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_page_that_met_a_deadlock_is_loaded_by_another_try(
    bench: Bench, rival: Connection, set_database: Callable[..., None]
) -> None:
    set_database(deadlock_timeout="500ms")
    rival.execute(text("SET deadlock_timeout = '10s'"))  # it is the page that is ended

    def close_the_circle() -> None:
        until(lambda: is_waited_for(bench))
        rival.execute(text("SELECT FROM checkpoints FOR UPDATE"))
        rival.rollback()

    with as_a_worker(bench) as (sliced, watched):
        other = in_time(close_the_circle)
        run = sliced.ingest(correction())
        other.join()
    assert (run["status"], run["claims"], watched.codes, watched.loads) == ("succeeded", 1, ["40P01"], 2)
    assert bench.one("SELECT price FROM quotes") == 2


def test_a_page_that_waited_too_long_for_a_lock_is_loaded_by_another_try(bench: Bench, rival: Connection) -> None:
    def let_go() -> None:
        until(lambda: watched.codes)
        rival.rollback()

    with as_a_worker(bench, transaction_timeout=0.3) as (sliced, watched):
        other = in_time(let_go)
        run = sliced.ingest(correction())
        other.join()
    assert (run["status"], run["claims"], set(watched.codes)) == ("succeeded", 1, {"55P03"})
    assert bench.one("SELECT price FROM quotes") == 2


def test_a_page_that_cannot_be_serialized_is_loaded_by_another_try(bench: Bench, rival: Connection) -> None:
    def write_first() -> None:
        until(lambda: is_waited_for(bench))
        rival.execute(text("UPDATE quotes SET price = 3"))
        rival.commit()

    with as_a_worker(bench, isolation_level="REPEATABLE READ") as (sliced, watched):
        other = in_time(write_first)
        run = sliced.ingest(correction())
        other.join()
    assert (run["status"], run["claims"], watched.codes, watched.loads) == ("succeeded", 1, ["40001"], 2)
    assert bench.one("SELECT price FROM quotes") == 2


def test_a_statement_that_takes_too_long_makes_the_run_wait(bench: Bench, rival: Connection) -> None:
    with as_a_worker(bench, statement_timeout=0.2) as (sliced, watched):
        run = sliced.ingest(correction())
    assert (run["status"], watched.loads) == ("waiting", 1)
    assert run["waiting_reason"].startswith("database_unavailable: Postgres reported query_canceled (57014); ")
    assert bench.one("SELECT count(*) FROM pages WHERE run = :run", run=run["id"]) == 0


def test_a_transaction_that_takes_too_long_makes_the_run_wait(bench: Bench, rival: Connection) -> None:
    with as_a_worker(bench, transaction_timeout=0.3) as (sliced, _):
        # A lock would be waited for for a third of that; the server itself ends the session of who is idle meanwhile.
        run = sliced.slice(sliced.request(idle_until_the_session_is_gone(bench)), transaction_timeout=0.3)
    assert (run["status"], run["claims"]) == ("waiting", 1)
    assert run["waiting_reason"].startswith("database_unavailable: the connection to Postgres broke")


def idle_until_the_session_is_gone(bench: Bench) -> Source:
    whole = correction(name="idle")

    def idle() -> None:
        sessions = "FROM pg_stat_activity WHERE application_name = 'kasparro-sliced' AND state LIKE 'idle in%'"
        until(lambda: not bench.one(f"SELECT count(*) {sessions}"))

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        return (replace(page, confirm=idle) for page in whole.fetch(window, http))

    return replace(whole, fetch=fetch)


class Frozen(io.StringIO):
    """Rows for a COPY, of which a part never comes: what a server sees of a client that was frozen while it sent."""

    def __init__(self) -> None:
        super().__init__("1\t")
        self.sent, self.go_on = False, threading.Event()

    def read(self, size: int | None = -1, /) -> str:
        if self.sent:
            self.go_on.wait(30)
        self.sent = True
        return super().read(size)


def test_a_session_that_outlives_its_timeout_in_a_copy_is_ended_by_the_reconciler(bench: Bench) -> None:
    bench.ingest(canned([item()]))
    rows, errors = Frozen(), list[Exception]()

    def copy() -> None:
        connection = psycopg2.connect(bench.settings.database_url, application_name="kasparro-worker")
        with closing(connection), closing(connection.cursor()) as cursor:
            cursor.execute("SET transaction_timeout = 100; SELECT FROM checkpoints FOR UPDATE")
            try:
                cursor.copy_expert("COPY latest_quotes FROM STDIN", rows)
            except (psycopg2.Error, SystemError) as error:  # the latter is how psycopg2 takes it
                errors.append(error)

    frozen = in_time(copy)
    sessions = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kasparro-worker'"
    held = f"SELECT count(*) {sessions} AND xact_start < clock_timestamp() - interval '200ms'"
    until(lambda: rows.sent and bench.one(held) == 1)
    reconcile(bench.engine, replace(bench.settings, transaction_timeout=10))
    assert bench.one(held) == 1
    reconcile(bench.engine, replace(bench.settings, transaction_timeout=0.1))
    assert bench.rows("SELECT FROM checkpoints FOR UPDATE NOWAIT")
    rows.go_on.set()
    frozen.join()
    assert errors


def test_a_server_that_became_a_standby_costs_a_lease_and_its_connections(
    bench: Bench, set_database: Callable[..., None]
) -> None:
    """None of its sessions is used again: pinged, it answers, but it would refuse to write for ever."""

    def fail_over(number: int) -> None:
        if number == 1 and bench.run(run)["claims"] == 1:
            set_database(default_transaction_read_only="on")
            sessions = "FROM pg_stat_activity WHERE application_name = 'kasparro-sliced'"
            assert bench.rows(f"SELECT pg_terminate_backend(pid, 1000) {sessions}")

    with as_a_worker(bench) as (sliced, watched):
        run = bench.request(canned([item(0)], [item(1)], before=fail_over))
        with pytest.raises(DBAPIError, match="read-only transaction"):
            sliced.slice(run)
        assert watched.codes[-1] == "25006"
        assert bench.run(run)["status"] == "running"
        set_database(default_transaction_read_only="off")
        bench.let_leases_run_out()
        assert sliced.slice(run)["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM pages") == 2
