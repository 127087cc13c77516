"""Test that runs continue after conflicts, timeouts and a failover of Postgres."""

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
from tasks.identity.decisions import decision_lock
from tasks.runs.reconciler import reconcile
from tests.processes import until
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED, canned, item

LATER = FETCHED + timedelta(hours=1)


class SessionLog:
    """A record of the error codes of an engine's sessions, and of the number of their page loads."""

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
def as_a_worker(bench: Bench, **options: Any) -> Iterator[tuple[Bench, SessionLog]]:
    """Yield a bench with a separate engine with these options, and the log of its sessions."""
    engine = make_engine(bench.settings.database_url, "slice", **{"transaction_timeout": 6, **options})
    yield replace(bench, engine=engine, settings=replace(bench.settings, transaction_timeout=6)), SessionLog(engine)
    engine.dispose()


@pytest.fixture
def rival(bench: Bench) -> Iterator[Connection]:
    """Yield a connection without timeouts that has locked the only quote."""
    bench.ingest(canned([item()]))
    engine = make_engine(bench.settings.database_url, "rival")
    with engine.connect() as connection:
        connection.execute(text("SELECT FROM quotes FOR UPDATE"))
        yield connection
    engine.dispose()


@pytest.fixture
def set_database(bench: Bench) -> Iterator[Callable[..., None]]:
    """Yield a function that changes the settings of later sessions: `set_database(deadlock_timeout="50ms")`."""
    name = bench.one("SELECT current_database()")

    def set_database(**settings: str) -> None:
        for setting, value in settings.items():
            bench.rows(f"ALTER DATABASE {name} SET {setting} = '{value}'")

    yield set_database
    bench.rows(f"ALTER DATABASE {name} RESET ALL")


def correction(**changes: Any) -> Source:
    return canned([item(price="2")], fetched_at=LATER, **changes)


def is_lock_awaited(bench: Bench) -> bool:
    return bool(bench.one("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_page_is_retried_after_a_deadlock(bench: Bench, rival: Connection, set_database: Callable[..., None]) -> None:
    set_database(deadlock_timeout="500ms")
    rival.execute(text("SET deadlock_timeout = '10s'"))  # Postgres then ends the page's transaction.

    def cause_deadlock() -> None:
        until(lambda: is_lock_awaited(bench))
        rival.execute(text("SELECT FROM checkpoints FOR UPDATE"))
        rival.rollback()

    with as_a_worker(bench) as (worker, log):
        other = in_thread(cause_deadlock)
        run = worker.ingest(correction())
        other.join()
    assert (run["status"], run["claims"], log.codes, log.loads) == ("succeeded", 1, ["40P01"], 2)
    assert bench.one("SELECT price FROM quotes") == 2


def test_a_page_is_retried_after_a_lock_timeout(bench: Bench, rival: Connection) -> None:
    def release() -> None:
        until(lambda: log.codes)
        rival.rollback()

    with as_a_worker(bench, transaction_timeout=0.3) as (worker, log):
        other = in_thread(release)
        run = worker.ingest(correction())
        other.join()
    assert (run["status"], run["claims"], set(log.codes)) == ("succeeded", 1, {"55P03"})
    assert bench.one("SELECT price FROM quotes") == 2


def test_a_page_is_retried_after_a_serialization_failure(bench: Bench, rival: Connection) -> None:
    def write_first() -> None:
        until(lambda: is_lock_awaited(bench))
        rival.execute(text("UPDATE quotes SET price = 3"))
        rival.commit()

    with as_a_worker(bench, isolation_level="REPEATABLE READ") as (worker, log):
        other = in_thread(write_first)
        run = worker.ingest(correction())
        other.join()
    assert (run["status"], run["claims"], log.codes, log.loads) == ("succeeded", 1, ["40001"], 2)
    assert bench.one("SELECT price FROM quotes") == 2


def test_a_statement_timeout_makes_the_run_wait(bench: Bench, rival: Connection) -> None:
    with as_a_worker(bench, statement_timeout=0.2) as (worker, log):
        run = worker.ingest(correction())
    assert (run["status"], log.loads) == ("waiting", 1)
    assert run["waiting_reason"].startswith("database_unavailable: Postgres reported query_canceled (57014); ")
    assert bench.one("SELECT count(*) FROM pages WHERE run = :run", run=run["id"]) == 0


def test_a_transaction_timeout_makes_the_run_wait(bench: Bench, rival: Connection) -> None:
    with as_a_worker(bench, transaction_timeout=0.3) as (worker, _):
        # A lock wait would end after a third of this timeout. So the transaction is idle until its session ends.
        run = worker.slice(worker.request(source_that_idles_until_its_session_ends(bench)), transaction_timeout=0.3)
    assert (run["status"], run["claims"]) == ("waiting", 1)
    assert run["waiting_reason"].startswith("database_unavailable: the connection to Postgres broke")


def source_that_idles_until_its_session_ends(bench: Bench) -> Source:
    source = correction(name="idle")

    def idle() -> None:
        sessions = "FROM pg_stat_activity WHERE application_name = 'kasparro-slice' AND state LIKE 'idle in%'"
        until(lambda: not bench.one(f"SELECT count(*) {sessions}"))

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        return (replace(page, confirm=idle) for page in source.fetch(window, http))

    return replace(source, fetch=fetch)


class FrozenRows(io.StringIO):
    """Rows for a COPY that stop in the middle, as if their client was frozen."""

    def __init__(self) -> None:
        super().__init__("1\t")
        self.sent, self.resume = False, threading.Event()

    def read(self, size: int | None = -1, /) -> str:
        if self.sent:
            self.resume.wait(30)
        self.sent = True
        return super().read(size)


def test_the_reconciler_terminates_a_session_that_exceeds_its_timeout_during_a_copy(bench: Bench) -> None:
    bench.ingest(canned([item()]))
    rows, errors = FrozenRows(), list[Exception]()

    def copy() -> None:
        connection = psycopg2.connect(bench.settings.database_url, application_name="kasparro-worker")
        with closing(connection), closing(connection.cursor()) as cursor:
            cursor.execute("SET transaction_timeout = 100; SELECT FROM checkpoints FOR UPDATE")
            try:
                cursor.copy_expert("COPY latest_quotes FROM STDIN", rows)
            except (psycopg2.Error, SystemError) as error:  # psycopg2 may raise SystemError here.
                errors.append(error)

    frozen = in_thread(copy)
    sessions = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kasparro-worker'"
    overdue = f"SELECT count(*) {sessions} AND xact_start < clock_timestamp() - interval '200ms'"
    until(lambda: rows.sent and bench.one(overdue) == 1)
    reconcile(bench.engine, replace(bench.settings, transaction_timeout=10))
    assert bench.one(overdue) == 1
    reconcile(bench.engine, replace(bench.settings, transaction_timeout=0.1))
    assert bench.rows("SELECT FROM checkpoints FOR UPDATE NOWAIT")
    rows.resume.set()
    frozen.join()
    assert errors


def test_a_run_continues_with_new_connections_after_a_failover_to_a_standby(
    bench: Bench, set_database: Callable[..., None]
) -> None:
    """The old sessions respond to a ping, but refuse all writes. So they must not be reused."""

    def fail_over(number: int) -> None:
        if number == 1 and bench.run(run)["claims"] == 1:
            set_database(default_transaction_read_only="on")
            sessions = "FROM pg_stat_activity WHERE application_name = 'kasparro-slice'"
            assert bench.rows(f"SELECT pg_terminate_backend(pid, 1000) {sessions}")

    with as_a_worker(bench) as (worker, log):
        run = bench.request(canned([item(0)], [item(1)], before=fail_over))
        with pytest.raises(DBAPIError, match="read-only transaction"):
            worker.slice(run)
        assert log.codes[-1] == "25006"
        assert bench.run(run)["status"] == "running"
        set_database(default_transaction_read_only="off")
        bench.let_leases_run_out()
        assert worker.slice(run)["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM pages") == 2


def test_a_wait_for_the_lock_for_new_listings_is_no_failure_and_keeps_the_connection(bench: Bench) -> None:
    other = make_engine(bench.settings.database_url, "other")
    with as_a_worker(bench, transaction_timeout=6) as (worker, log):
        worker = replace(worker, settings=replace(worker.settings, max_waits=1, transaction_timeout=0.6))
        run = worker.request(canned([item()]))
        with decision_lock(other):
            for _ in range(3):
                waiting = worker.slice(run, retry_after_failure=0.001)
                assert (waiting["status"], waiting["waits"]) == ("waiting", 0)
                assert "lock_not_available (55P03)" in waiting["waiting_reason"]
                bench.rows("UPDATE runs SET next_attempt_at = NULL")
        assert worker.slice(run)["status"] == "succeeded"
    other.dispose()
    assert set(log.codes) == {"55P03"}


def test_a_wait_for_the_lock_for_new_listings_may_outlast_a_transaction(bench: Bench) -> None:
    other = make_engine(bench.settings.database_url, "other")
    locked = threading.Event()

    def hold_lock() -> None:
        with decision_lock(other):
            locked.set()
            until(lambda: len(log.codes) >= 2)

    with as_a_worker(bench, transaction_timeout=1.5) as (worker, log):
        with worker.engine.connect() as connection:
            session = connection.execute(text("SELECT pg_backend_pid(), current_setting('lock_timeout')")).one()
        holder = in_thread(hold_lock)
        assert locked.wait(10)
        with decision_lock(worker.engine, patience=10) as connection:
            query = text("SELECT pg_backend_pid(), current_setting('lock_timeout')")
            assert connection.execute(query).one() == session
        holder.join()
    other.dispose()
    assert set(log.codes) == {"55P03"}
