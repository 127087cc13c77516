"""Test that a database that was set back is noticed, once, by the sweeps or by a worker that misses commits."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from tasks.runs.claims import claim_run
from tasks.set_backs.history import MAX_SWEEPS, report_lost_commits, watch_history
from tasks.set_backs.memory import in_process
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


@pytest.fixture
def watched(bench: Bench) -> Bench:
    """Return a bench with a registered source, after three sweeps."""
    bench.ingest(canned([item()]))
    assert noticed(bench, sweeps=3) == []
    return bench


def noticed(bench: Bench, *, sweeps: int = 1) -> list[str]:
    """Sweep. Return how the database was set back, once for each log event."""
    with capture_logs() as logs:
        for _ in range(sweeps):
            watch_history(bench.engine)
    return [log["reason"] for log in logs if log["event"] == "database_set_back"]


def lose_last_sweep(bench: Bench) -> None:
    bench.rows("UPDATE timelines SET sweeps = trim_array(sweeps, 1)")


def lose_all_sweeps(bench: Bench) -> None:
    bench.rows("TRUNCATE timelines")


def fail_over(bench: Bench) -> None:
    bench.rows("UPDATE timelines SET timeline = timeline + 1")


def move(bench: Bench) -> None:
    bench.rows("UPDATE timelines SET system_identifier = '77'")


SET_BACKS = {
    lose_last_sweep: "the database no longer has a commit that it acknowledged",
    lose_all_sweeps: "the database no longer has a history that it began earlier",
    fail_over: "the database moved from timeline 2 to 1, as in a failover",
    move: "the database moved from system 77 to",
}


@pytest.mark.parametrize(("set_back", "reason"), SET_BACKS.items(), ids=[change.__name__ for change in SET_BACKS])
def test_a_set_back_is_noticed_once(watched: Bench, set_back: Callable[[Bench], None], reason: str) -> None:
    set_back(watched)
    [noticed_reason] = noticed(watched, sweeps=3)
    assert noticed_reason.startswith(reason)
    assert watched.one("SELECT count(*) FROM timelines WHERE reason = :reason", reason=noticed_reason) == 1
    assert watched.one("SELECT count(*) FROM anomalies WHERE kind = 'set_back'") == 1


def test_a_second_control_worker_does_not_report_the_set_back_again(watched: Bench, broker: Redis) -> None:
    others_memory = dict(in_process)
    lose_last_sweep(watched)
    assert noticed(watched)
    in_process.clear()
    in_process.update(others_memory)
    assert noticed(watched, sweeps=2) == []


@pytest.mark.parametrize("forget", [in_process.clear, None], ids=["new process", "emptied Redis"])
def test_one_memory_suffices(watched: Bench, broker: Redis, forget: Callable[[], Any] | None) -> None:
    (forget or broker.flushall)()
    lose_last_sweep(watched)
    assert len(noticed(watched)) == 1


def test_a_process_that_was_frozen_for_long_reports_nothing(watched: Bench, broker: Redis) -> None:
    old_memory = dict(in_process)
    watched.rows(
        "UPDATE timelines SET sweeps = sweeps || array(SELECT 1 + max(s) + n FROM unnest(sweeps) AS s,"
        " generate_series(1, 240) AS n GROUP BY n)"
    )
    broker.flushall()
    assert noticed(watched) == []
    in_process.update(old_memory)
    assert noticed(watched) == []
    assert watched.one("SELECT cardinality(sweeps) FROM timelines") == MAX_SWEEPS


def test_a_worker_that_misses_commits_reports_the_set_back_once(watched: Bench) -> None:
    claim = claim_run(watched.engine, watched.request(canned([item()])))
    assert claim
    with capture_logs() as logs:
        for history in (claim.history, claim.history, uuid.uuid4()):
            report_lost_commits(watched.engine, "listings are missing", history)
    assert [log["reason"] for log in logs if log["event"] == "database_set_back"] == ["listings are missing"]
    assert noticed(watched) == []


def test_a_sweep_does_not_report_what_a_worker_reported(watched: Bench) -> None:
    claim = claim_run(watched.engine, watched.request(canned([item()])))
    assert claim
    fail_over(watched)
    with capture_logs() as logs:
        report_lost_commits(watched.engine, "listings are missing", claim.history)
    assert [log["reason"] for log in logs] == ["the database moved from timeline 2 to 1, as in a failover"]
    assert noticed(watched) == []
