"""Test that processes of this version wait while the database has an older schema, and continue after the migration."""

from __future__ import annotations

from collections import Counter

import pytest
import requests
from pytest_httpserver import HTTPServer
from redis import Redis
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from store.schema import HEAD
from tasks import control, ingest
from tasks.celery import celery
from tasks.runs.requests import RunRequest, request_runs
from tasks.runtime.outdated_schema import schema_log
from tasks.schedule import SlotScheduler
from tests.processes import Processes, until
from tests.servers import alembic
from tests.tasks.conftest import Bench
from tests.upstreams import Markets, canned, coins, item

BEHIND = f"schema_behind: The schema has revision 0011, and this version needs {HEAD}. Run `alembic upgrade head`"


@pytest.fixture
def new_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process log the schema again, although it did so less than a minute ago."""
    monkeypatch.setattr(schema_log, "_quiet_until", 0.0)


def rename(engine: Engine, table: str, column: str, renamed: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME {column} TO {renamed}"))


def set_revision(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_run_waits_without_limit_for_the_migration_and_then_succeeds(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    for table in ("drift", "shapes"):
        bench.rows(f"ALTER TABLE {table} RENAME TO missing_{table}")
    set_revision(bench.engine, "0011")
    for _ in range(3):
        waiting = bench.slice(run, max_waits=1, retry_after_failure=0.01)
        assert (waiting["status"], waiting["waits"], waiting["attempts"]) == ("waiting", 0, 0)
        assert waiting["waiting_reason"].startswith(BEHIND)
        bench.rows("UPDATE runs SET next_attempt_at = NULL")
    for table in ("drift", "shapes"):
        bench.rows(f"ALTER TABLE missing_{table} RENAME TO {table}")
    set_revision(bench.engine, HEAD)
    assert bench.slice(run)["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM quotes") == 1


@pytest.mark.parametrize(("table", "column"), [("quotes", "market_cap"), ("pages", "rejected"), ("raw_bodies", "body")])
def test_a_column_that_is_missing_anywhere_in_a_page_makes_the_run_wait(bench: Bench, table: str, column: str) -> None:
    """COPY raises the driver's own errors, unlike other statements."""
    run = bench.request(canned([item()]))
    rename(bench.engine, table, column, "renamed")
    set_revision(bench.engine, "0011")
    assert bench.slice(run)["waiting_reason"].startswith(BEHIND)


def test_a_missing_table_in_a_current_schema_fails_the_run(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    bench.rows("DROP TABLE raw_bodies CASCADE")
    assert bench.slice(run)["error_code"] == "internal_error"


@pytest.mark.usefixtures("process_settings", "new_log")
def test_a_run_that_cannot_be_claimed_stays_queued(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.request(canned([item()]))
    monkeypatch.setattr(ingest, "RETRY_INTERVAL", 0)
    rename(bench.engine, "runs", "claims", "renamed")
    set_revision(bench.engine, "0011")
    with capture_logs() as events:
        for _ in range(3):
            with pytest.raises(ingest.HandBack):
                ingest.ingest(str(run))
    assert [event["event"] for event in events] == ["schema_behind"]
    assert bench.run(run)["status"] == "queued"


@pytest.mark.usefixtures("process_settings", "new_log")
def test_control_tasks_log_a_missing_table_once(bench: Bench) -> None:
    bench.rows("INSERT INTO sources (name) VALUES ('canned')")
    for table in ("runs", "listings", "heartbeats"):
        bench.rows(f"ALTER TABLE {table} RENAME TO renamed_{table}")
    set_revision(bench.engine, "0011")
    with capture_logs() as events:
        for task in (control.reconcile_runs, control.judge, control.rematch, control.canary):
            task()
    assert Counter(event["event"] for event in events) == {"schema_behind": 1}


def test_beat_keeps_its_schedule_and_logs_a_missing_table_once(bench: Bench, broker: Redis) -> None:
    rename(bench.engine, "sources", "last_slot", "renamed")
    set_revision(bench.engine, "0011")
    scheduler = SlotScheduler(celery, engine=lambda: bench.engine, clock=iter(range(10**6)).__next__)
    with capture_logs() as events:
        for _ in range(5):
            scheduler.tick()
    assert [event["event"] for event in events] == ["schema_behind"]
    assert broker.llen("control") > 0


def test_beat_works_on_a_newer_schema_and_logs_it_once(bench: Bench) -> None:
    set_revision(bench.engine, "9999")
    scheduler = SlotScheduler(celery, engine=lambda: bench.engine, clock=iter(range(10**6)).__next__)
    with capture_logs() as events:
        for _ in range(5):
            scheduler.tick()
    logged = Counter(event["event"] for event in events)
    assert (logged["schema_newer"], logged["schema_behind"]) == (1, 0)
    assert logged["slot_requested"] > 0


def test_every_process_of_the_service_waits_for_the_migration(
    processes: Processes, database_url: str, engine: Engine, httpserver: HTTPServer
) -> None:
    request_runs(engine, [RunRequest("coingecko")], requested_by="test")
    alembic(database_url, "downgrade", "0011")
    markets = Markets(httpserver, coins(3))
    processes.environ |= {"COINGECKO_URL": markets.url, "COINGECKO_EVERY": "1", "API_TOKEN": "a-token-of-the-test"}
    started = [processes.start(role) for role in ("worker", "control", "beat")]
    web = processes.serve()
    for process in started:
        until(lambda process=process: "schema_behind" in process.log.read_text(), within=30)
    health = requests.get(f"{web.url}/health", timeout=10)
    assert (health.status_code, health.json()["checks"]["database"]["status"]) == (503, "down")
    assert health.json()["checks"]["database"]["detail"].startswith("The schema has revision 0011")
    problem = requests.get(f"{web.url}/anomalies", timeout=10)
    assert (problem.status_code, problem.json()["code"]) == (503, "schema_behind")

    alembic(database_url, "upgrade", "head")
    until(lambda: has_succeeded(engine), within=30)
    assert requests.get(f"{web.url}/anomalies", timeout=10).status_code == 200
    assert "Traceback" not in "".join(process.log.read_text() for process in (*started, web))
    for process in started:
        assert process.log.read_text().count('"event": "schema_behind"') <= 3  # a process and its children
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM runs WHERE status IN ('failed', 'cancelled')")) == 0


def has_succeeded(engine: Engine) -> bool:
    """Return whether a run of CoinGecko has succeeded."""
    with engine.connect() as connection:
        query = "SELECT count(*) > 0 FROM runs WHERE source = 'coingecko' AND status = 'succeeded'"
        return bool(connection.scalar(text(query)))
