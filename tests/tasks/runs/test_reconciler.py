"""Test that the reconciler requeues runs of dead workers, and publishes runs with lost messages."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from redis import Redis

from tasks.pipeline.fence import pass_fence
from tasks.runs.claims import Claim, ClaimLost, claim_run
from tasks.runs.leases import Lease, release_lease, take_lease
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, request_cancel, request_runs
from tasks.runtime.heartbeats import record_heartbeat
from tests.tasks.conftest import Bench, empty_page
from tests.upstreams import canned, item


def test_a_run_is_published_again_only_after_the_publish_gap(bench: Bench, broker: Redis) -> None:
    [run] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    assert broker.llen("ingest") == 1
    reconcile(bench.engine, bench.settings)
    assert broker.llen("ingest") == 1
    broker.flushall()
    bench.rows("UPDATE runs SET published_at = clock_timestamp() - interval '3s'")
    reconcile(bench.engine, bench.settings)
    assert broker.llen("ingest") == 1
    assert bench.run(run.run)["publish_count"] == 2


def test_the_publish_gap_doubles_while_messages_are_queued(bench: Bench, broker: Redis) -> None:
    request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    gap = bench.settings.publish_gap
    for count, seconds, published in ((1, gap + 1, 1), (3, gap * 4 - 1, 0), (3, gap * 4 + 1, 1)):
        broker.delete("ingest")
        broker.rpush("ingest", "a backlog")
        bench.rows(
            "UPDATE runs SET publish_count = :count, published_at = clock_timestamp() - :ago",
            count=count,
            ago=timedelta(seconds=seconds),
        )
        reconcile(bench.engine, bench.settings)
        assert broker.llen("ingest") == 1 + published


def test_a_lost_message_is_published_again_after_one_gap_even_after_many_publications(
    bench: Bench, broker: Redis
) -> None:
    request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    for seconds, published in ((bench.settings.publish_gap - 1, 0), (bench.settings.publish_gap + 1, 1)):
        broker.flushall()
        bench.rows(
            "UPDATE runs SET publish_count = 9, published_at = clock_timestamp() - :ago", ago=timedelta(seconds=seconds)
        )
        reconcile(bench.engine, bench.settings)
        assert broker.llen("ingest") == published


def test_a_queued_run_reports_that_no_worker_is_alive_until_a_heartbeat(bench: Bench) -> None:
    [run] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")

    def reason() -> str | None:
        reconcile(bench.engine, bench.settings)
        text: str | None = bench.run(run.run)["waiting_reason"]
        return text

    assert reason() == "no worker heartbeat received yet"
    bench.rows("INSERT INTO heartbeats VALUES ('worker', '2026-01-01T10:00:00Z')")
    assert reason() == "no worker heartbeat since 2026-01-01T10:00:00Z"
    bench.rows("UPDATE runs SET status = 'waiting', waiting_reason = 'rate', next_attempt_at = clock_timestamp()")
    assert reason() == "no worker heartbeat since 2026-01-01T10:00:00Z"
    bench.rows("UPDATE runs SET status = 'queued'")
    record_heartbeat(bench.engine, "worker")
    assert reason() is None


def test_a_failing_step_does_not_stop_the_other_steps(bench: Bench, broker: Redis) -> None:
    request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    broker.flushall()
    bench.rows("UPDATE runs SET published_at = NULL")
    bench.rows("ALTER TABLE heartbeats RENAME TO hidden")
    try:
        assert not reconcile(bench.engine, bench.settings)
    finally:
        bench.rows("ALTER TABLE hidden RENAME TO heartbeats")
    assert broker.llen("ingest") == 1
    assert reconcile(bench.engine, bench.settings)


def test_a_run_with_a_live_lease_stays_running(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    claim = claim_run(bench.engine, run)
    assert claim
    take_lease(bench.engine, claim, "", bench.settings.lease)
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "running"
    bench.rows("UPDATE checkpoints SET lease_expires = clock_timestamp()")
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "queued"


def test_a_run_that_has_just_released_a_lease_stays_running(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    claim = claim_run(bench.engine, run)
    assert claim
    lease = take_lease(bench.engine, claim, "", bench.settings.lease)
    # The slice took the lease an hour ago.
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
    release_lease(bench.engine, lease, done=True)
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "running"


def test_a_lease_taken_while_the_clock_was_ahead_blocks_no_run(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    claim = claim_run(bench.engine, run)
    assert claim
    take_lease(bench.engine, claim, "", bench.settings.lease)
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() + interval '1 year'")
    bench.rows("UPDATE checkpoints SET lease_expires = clock_timestamp() + interval '1 year'")
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "queued"
    bench.rows("UPDATE checkpoints SET lease_run = gen_random_uuid()")
    assert bench.slice(run)["status"] == "succeeded"


def test_an_abandoned_run_with_a_requested_cancellation_is_cancelled(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    assert claim_run(bench.engine, run)
    assert request_cancel(bench.engine, run) == "running"
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "cancelled"


def test_a_cancelled_run_whose_worker_vanished_is_cancelled(bench: Bench) -> None:
    run = bench.request(canned([item(0)]))
    assert claim_run(bench.engine, run)
    assert request_cancel(bench.engine, run) == "running"
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "cancelled"


def test_a_run_that_kills_all_its_workers_fails_as_poisoned_and_pauses_its_source(bench: Bench) -> None:
    run = bench.request(canned([item(0)], [item(1)]))
    bench.slice(run, task_slice=0)
    for _ in range(bench.settings.max_attempts):
        assert bench.run(run)["status"] == "queued"
        claim = claim_run(bench.engine, run)
        assert claim
        take_lease(bench.engine, claim, "", 0)  # Then the worker dies.
        bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
        reconcile(bench.engine, bench.settings)
    row = bench.run(run)
    assert (row["status"], row["error_code"]) == ("failed", "poisoned")
    assert "the last one stopped at the page of partition '' after cursor" in row["error_detail"]
    assert "'next': 1" in row["error_detail"]
    assert bench.one("SELECT paused_reason LIKE 'poisoned: %' FROM sources WHERE name = 'canned'")


def test_a_run_is_not_requeued_while_an_assistant_is_committing(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, assistant = claims
    lease = take_lease(bench.engine, assistant, "a", 60)
    bench.rows("UPDATE checkpoints SET lease_expires = clock_timestamp()")
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
    with bench.engine.connect() as connection:
        # The assistant continues, although its lease has expired.
        pass_fence(connection, Lease(assistant, "a", lease.token, None, 0, seconds=-1), empty_page(), 1)
        reconcile(bench.engine, bench.settings)
        assert bench.run(claim.run)["status"] == "running"
        connection.commit()
    reconcile(bench.engine, bench.settings)
    assert bench.run(claim.run)["status"] == "queued"
    with bench.engine.begin() as connection, pytest.raises(ClaimLost):
        pass_fence(connection, replace(lease, version=1), empty_page(2), 2)
