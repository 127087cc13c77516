"""Test that control tasks log an outage of Postgres or Redis and do not fail."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from redis import Redis
from structlog.testing import capture_logs

from settings import get_settings
from sources.contract import Retention
from tasks import control
from tasks.anomalies import judge
from tasks.archive import retention
from tasks.runs.requests import RunRequest, request_runs
from tasks.runtime import stepwise
from tasks.runtime.database import worker_engine
from tests.tasks.assets import add_acme_twice, add_sources
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


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


def parts(broker: Redis) -> list[tuple[str, dict[str, str]]]:
    """Remove the messages from the queue of the control worker. Return the task and the arguments of each."""
    messages = [json.loads(message) for message in broker.lrange("control", 0, -1)]
    broker.delete("control")
    return [(message["headers"]["task"], json.loads(base64.b64decode(message["body"]))[1]) for message in messages]


@pytest.mark.usefixtures("process_settings")
def test_a_rematch_sends_itself_again_until_it_is_done(
    bench: Bench, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_sources(bench.engine)
    add_acme_twice(bench.engine)
    monkeypatch.setattr(stepwise, "PART_SECONDS", 0)
    control.rematch()
    count = 1
    while messages := parts(broker):
        [(task, arguments)] = messages
        assert task == "kasparro.rematch"
        assert bench.one("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == 0
        control.rematch(**arguments)
        count += 1
    assert count > 4
    assert bench.one("SELECT count(DISTINCT asset) FROM listings") == 1


@pytest.mark.usefixtures("process_settings")
def test_a_long_rematch_retention_or_judgment_delays_no_sweep(
    bench: Bench, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "TIME_LIMIT", 0)
    monkeypatch.setattr(judge, "TIME_LIMIT", 0)
    source = replace(canned([item(n) for n in range(3)]), retention=Retention(quotes=timedelta(days=1)))
    for _ in range(2):
        bench.ingest(source)
    bench.rows("UPDATE quotes SET observed_at = observed_at - interval '1 year'")
    control.retain()
    control.judge()
    assert [task for task, _ in parts(broker)] == ["kasparro.judge", "kasparro.retain"]
