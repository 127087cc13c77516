"""Test that a paused source starts no slice, and that a resumed source continues at once."""

from __future__ import annotations

from datetime import UTC, datetime

from redis import Redis

from tasks.runs.pausing import pause_source, resume_source
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_resuming_a_source_makes_its_waiting_run_due(bench: Bench, broker: Redis) -> None:
    source = canned([item()])
    pause_source(bench.engine, "canned", None, "maintenance")
    run = bench.ingest(source)
    assert run["status"] == "waiting"
    assert run["waiting_reason"].startswith("the source is paused: maintenance; next attempt at 2")
    broker.flushall()
    resume_source(bench.engine, "canned")
    assert broker.llen("ingest") == 1
    assert bench.slice(run["id"])["status"] == "succeeded"


def test_a_second_pause_replaces_the_first_pause(bench: Bench) -> None:
    end = datetime(2099, 1, 1, tzinfo=UTC)
    for until, reason in ((None, "maintenance"), (end, "a shorter one")):
        pause_source(bench.engine, "canned", until, reason)
    [pause] = bench.rows("SELECT paused_until, paused_reason FROM sources")
    assert dict(pause) == {"paused_until": end, "paused_reason": "a shorter one"}


def test_the_end_of_a_pause_is_recorded(bench: Bench) -> None:
    pause_source(bench.engine, "canned", None, "maintenance")
    resume_source(bench.engine, "canned")
    [pause] = bench.rows("SELECT paused_reason, paused_until <= clock_timestamp() AS is_over FROM sources")
    assert dict(pause) == {"paused_reason": None, "is_over": True}
