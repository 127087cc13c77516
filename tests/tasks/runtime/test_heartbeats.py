"""Test that a heartbeat records when a component of the service last worked."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from settings import get_settings
from tasks.runtime.database import worker_engine
from tasks.runtime.heartbeats import record_heartbeat, send_heartbeat
from tests.tasks.conftest import Bench


def test_a_heartbeat_replaces_the_last_heartbeat_of_its_component(bench: Bench) -> None:
    bench.rows("INSERT INTO heartbeats VALUES ('worker', '2026-01-01T10:00:00Z'), ('beat', '2026-01-01T10:00:00Z')")
    record_heartbeat(bench.engine, "worker")
    fresh = "SELECT part FROM heartbeats WHERE beaten_at > clock_timestamp() - interval '1 min'"
    assert [row["part"] for row in bench.rows(fresh)] == ["worker"]
    assert bench.one("SELECT count(*) FROM heartbeats") == 2


@pytest.mark.usefixtures("process_settings")
def test_a_process_stores_its_heartbeat_in_its_database(bench: Bench) -> None:
    send_heartbeat("control")
    assert bench.one("SELECT part FROM heartbeats") == "control"


def test_a_heartbeat_without_a_database_is_only_logged(process_settings: pytest.MonkeyPatch) -> None:
    process_settings.setenv("DATABASE_URL", "postgresql://kasparro:secret@127.0.0.1:1/kasparro")
    get_settings.cache_clear()
    worker_engine.cache_clear()
    with capture_logs() as events:
        send_heartbeat("control")
    assert [(event["event"], event["part"]) for event in events] == [("heartbeat_failed", "control")]
    assert "secret" not in str(events)
