"""Test that control tasks log an outage of Postgres or Redis and do not fail."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from redis import Redis
from structlog.testing import capture_logs

from settings import get_settings
from tasks import control
from tasks.runs.requests import RunRequest, request_runs
from tasks.runtime.database import worker_engine
from tests.tasks.conftest import Bench


@pytest.mark.usefixtures("process_settings")
def test_a_sweep_publishes_lost_runs_and_sends_a_canary_and_a_heartbeat(bench: Bench, broker: Redis) -> None:
    request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    broker.flushall()
    bench.rows("UPDATE runs SET published_at = NULL")
    control.reconcile_runs()
    tasks = [json.loads(message)["headers"]["task"] for message in broker.lrange("ingest", 0, -1)]
    assert tasks == ["kasparro.canary", "kasparro.ingest"]
    assert bench.one("SELECT part FROM heartbeats") == "control"


@pytest.mark.usefixtures("process_settings")
def test_a_consumed_canary_records_a_heartbeat_of_the_worker(bench: Bench) -> None:
    control.canary()
    assert bench.one("SELECT part FROM heartbeats") == "worker"


@pytest.mark.usefixtures("process_settings")
def test_a_canary_that_redis_refuses_is_logged_without_failing_the_task(broker: Redis) -> None:
    broker.config_set("maxmemory", 1)
    try:
        with capture_logs() as events:
            control.reconcile_runs()
    finally:
        broker.config_set("maxmemory", 0)
    assert [event["event"] for event in events] == ["canary_failed"]


@pytest.mark.parametrize(
    ("task", "event"), [(control.judge, "anomaly_check_failed"), (control.rematch, "rematch_failed")]
)
def test_a_task_without_a_database_logs_its_failure(
    process_settings: pytest.MonkeyPatch, task: Callable[[], None], event: str
) -> None:
    process_settings.setenv("DATABASE_URL", "postgresql://kasparro:secret@127.0.0.1:1/kasparro")
    get_settings.cache_clear()
    worker_engine.cache_clear()
    with capture_logs() as events:
        task()
    assert [entry["event"] for entry in events] == [event]


@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize("task", [control.judge, control.rematch, control.look_again, control.retain])
def test_a_task_on_an_empty_database_does_nothing(task: Callable[[], None]) -> None:
    with capture_logs() as events:
        task()
    assert events == []
