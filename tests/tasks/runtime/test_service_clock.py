"""Test that the service's clock never goes back, whoever notices that the database's clock did."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from store.engine import make_engine
from tasks.runs.claims import claim_run, extend_pause, postpone_run
from tasks.runs.idempotency import remember_runs
from tasks.runs.leases import take_lease
from tasks.runs.publishing import publish
from tasks.runs.reconciler import reconcile
from tasks.runtime.heartbeats import record_heartbeat
from tasks.runtime.service_clock import MARGIN, check_clock, correct_clock
from tasks.upstream.circuit_breaker import CircuitBreaker
from tests.processes import until
from tests.stepped_clock import SteppedPostgres
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

SECOND, MINUTE, DAY = 1.0, 60.0, 86_400.0


@pytest.fixture
def database_url(stepped_database_url: str) -> str:
    return stepped_database_url


@pytest.fixture
def restarted(engine: Engine) -> Iterator[Engine]:
    """Yield an engine of a process that has not read the clock yet."""
    other = make_engine(engine.url.render_as_string(hide_password=False), "test")
    yield other
    other.dispose()


def service_time(engine: Engine) -> datetime:
    with engine.connect() as connection:
        now: datetime = connection.execute(text("SELECT service_time()")).scalar_one()
    return now


def ahead(engine: Engine) -> float:
    with engine.connect() as connection:
        seconds: float = connection.execute(text("SELECT clock_ahead(clock_timestamp())")).scalar_one()
    return seconds


def steps(logs: list[Any]) -> list[str]:
    return [entry["event"] for entry in logs if entry["event"].startswith("clock_")]


@pytest.mark.parametrize("step", [SECOND, MINUTE, DAY])
def test_a_process_that_knows_the_earlier_time_notices_a_step_back_once(
    stepped_server: SteppedPostgres, engine: Engine, restarted: Engine, step: float
) -> None:
    check_clock(engine)
    check_clock(restarted)
    before = service_time(engine)
    stepped_server.set_clock(-step)
    with capture_logs() as logs:
        check_clock(engine)
        check_clock(restarted)
        check_clock(engine)
    assert before < service_time(engine) < before + timedelta(seconds=30)
    assert ahead(engine) == pytest.approx(step, abs=max(0.2, step / 100))
    assert steps(logs) == ["clock_set_back"]


@pytest.mark.parametrize("step", [SECOND, MINUTE, DAY])
def test_a_restarted_process_notices_that_a_stored_time_is_in_the_future(
    stepped_server: SteppedPostgres, engine: Engine, restarted: Engine, step: float
) -> None:
    record_heartbeat(engine, "beat")
    before = service_time(engine)
    stepped_server.set_clock(-step)
    with capture_logs() as logs:
        check_clock(restarted)
        check_clock(engine)
    assert before < service_time(engine) < before + timedelta(seconds=MARGIN + 30)
    assert steps(logs) == ["clock_set_back"]


def test_a_heartbeat_does_not_hide_a_step_from_other_processes(
    stepped_server: SteppedPostgres, engine: Engine, restarted: Engine
) -> None:
    record_heartbeat(engine, "worker")
    before = service_time(engine)
    stepped_server.set_clock(-MINUTE)
    record_heartbeat(engine, "worker")
    check_clock(restarted)
    assert service_time(engine) > before


def test_the_clock_is_slower_until_the_database_has_caught_up(stepped_server: SteppedPostgres, engine: Engine) -> None:
    check_clock(engine)
    stepped_server.set_clock(-MINUTE)
    check_clock(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE clock SET since = since - interval '300 seconds'"))
    assert ahead(engine) == pytest.approx(MINUTE - 30, abs=1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE clock SET since = since - interval '400 seconds'"))
    assert ahead(engine) == 0


def test_a_slower_clock_is_not_taken_for_a_step(stepped_server: SteppedPostgres, engine: Engine) -> None:
    check_clock(engine)
    stepped_server.set_clock(-MINUTE)
    check_clock(engine)
    second_later = service_time(engine) + timedelta(seconds=1)
    with capture_logs() as logs:
        until(lambda: check_clock(engine) < 1 and service_time(engine) > second_later)
    assert steps(logs) == []


def test_a_clock_that_is_set_right_again_ends_the_correction(
    stepped_server: SteppedPostgres, engine: Engine, restarted: Engine
) -> None:
    check_clock(engine)
    stepped_server.set_clock(-DAY)
    check_clock(engine)
    check_clock(restarted)
    before = service_time(engine)
    stepped_server.set_clock(0)
    with capture_logs() as logs:
        check_clock(engine)
        check_clock(restarted)
    assert before < service_time(engine) < before + timedelta(seconds=30)
    assert ahead(engine) < 1
    assert steps(logs) == ["clock_set_ahead"]


def test_ending_a_correction_stays_after_every_stored_time(stepped_server: SteppedPostgres, engine: Engine) -> None:
    check_clock(engine)
    stepped_server.set_clock(-DAY)
    check_clock(engine)
    stepped_server.set_clock(0)
    record_heartbeat(engine, "worker")  # A process that does not check the clock stores a time a day ahead.
    stored = service_time(engine) - timedelta(seconds=MINUTE)
    check_clock(engine)
    assert service_time(engine) > stored


def test_a_jump_ahead_is_returned_in_seconds(stepped_server: SteppedPostgres, engine: Engine) -> None:
    check_clock(engine)
    assert check_clock(engine) < 1
    stepped_server.set_clock(DAY)
    assert check_clock(engine) == pytest.approx(DAY, abs=30)
    assert ahead(engine) == 0


def test_correcting_a_right_clock_changes_nothing(engine: Engine, restarted: Engine) -> None:
    check_clock(engine)
    with capture_logs() as logs:
        correct_clock(engine)
        correct_clock(restarted)
    assert (ahead(engine), steps(logs)) == (0, [])


def test_the_reconciler_notices_a_step_while_nothing_else_runs(stepped_server: SteppedPostgres, bench: Bench) -> None:
    reconcile(bench.engine, bench.settings)
    before = service_time(bench.engine)
    stepped_server.set_clock(-DAY)
    reconcile(bench.engine, bench.settings)
    assert service_time(bench.engine) > before


def wait(bench: Bench, run: uuid.UUID) -> None:
    claim = claim_run(bench.engine, run)
    assert claim
    postpone_run(bench.engine, claim, "asked to", seconds=MINUTE, is_failure=False)


def pause(bench: Bench, run: uuid.UUID) -> None:
    with bench.engine.begin() as connection:
        extend_pause(connection, "canned", timedelta(seconds=MINUTE), "asked to")


def lease(bench: Bench, run: uuid.UUID) -> None:
    claim = claim_run(bench.engine, run)
    assert claim
    take_lease(bench.engine, claim, "", MINUTE)


def remember(bench: Bench, run: uuid.UUID) -> None:
    with bench.engine.begin() as connection:
        remember_runs(connection, "key", b"", [run])


def open_breaker(bench: Bench, run: uuid.UUID) -> None:
    breaker = CircuitBreaker(bench.engine, "canned", bench.settings)
    for _ in range(bench.settings.breaker_failures):
        breaker.record_result(alive=False)


def send(bench: Bench, run: uuid.UUID) -> None:
    publish(bench.engine, [run])


FUTURE_TIMES = [
    (wait, "SELECT next_attempt_at FROM runs", MINUTE),
    (pause, "SELECT paused_until FROM sources", MINUTE),
    (lease, "SELECT lease_expires FROM checkpoints", MINUTE),
    (remember, "SELECT expires_at FROM idempotency_keys", DAY),
    (open_breaker, "SELECT breaker_opened_at FROM sources", 0.0),
    (send, "SELECT published_at FROM runs", 0.0),
]


@pytest.mark.parametrize("stored_at", ["before the step", "after the step"])
@pytest.mark.parametrize(("store", "query", "bound"), FUTURE_TIMES, ids=lambda value: getattr(value, "__name__", ""))
def test_no_wait_becomes_longer_when_a_clock_that_was_ahead_goes_back(
    stepped_server: SteppedPostgres,
    bench: Bench,
    store: Callable[[Bench, uuid.UUID], None],
    query: str,
    bound: float,
    stored_at: str,
) -> None:
    run = bench.request(canned([item()]))
    stepped_server.set_clock(DAY)
    check_clock(bench.engine)
    if stored_at == "before the step":
        store(bench, run)
    stepped_server.set_clock(0)
    check_clock(bench.engine)
    if stored_at == "after the step":
        store(bench, run)
    left = (bench.one(query) - service_time(bench.engine)).total_seconds()
    assert bound - 30 < left <= bound


def test_a_frozen_workers_session_is_terminated_after_a_step_back(
    stepped_server: SteppedPostgres, bench: Bench
) -> None:
    check_clock(bench.engine)
    with closing(psycopg2.connect(bench.settings.database_url, application_name="kasparro-worker")) as frozen:
        with frozen.cursor() as cursor:
            cursor.execute("SELECT 1")
        pid = frozen.info.backend_pid
        stepped_server.set_clock(-DAY)

        def sweep() -> bool:
            # Postgres measures its timeouts by the clock that was set, so the step can also end the test's own session.
            with suppress(OperationalError):
                reconcile(bench.engine, bench.settings)
                return not bench.rows("SELECT FROM pg_stat_activity WHERE pid = :pid", pid=pid)
            return False

        until(sweep)
