"""What the reconciler makes good: messages that vanished, and workers that did."""

from __future__ import annotations

from datetime import timedelta

from redis import Redis

from tasks.runs.claims import claim_run
from tasks.runs.leases import release_lease, take_lease
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, request_cancel, request_runs
from tasks.runtime.heartbeats import record_heartbeat
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_the_reconciler_publishes_what_never_was_and_leaves_a_fresh_message_alone(bench: Bench, broker: Redis) -> None:
    [run] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    assert broker.llen("ingest") == 1
    reconcile(bench.engine, bench.settings)
    assert broker.llen("ingest") == 1
    broker.flushall()
    bench.rows("UPDATE runs SET published_at = clock_timestamp() - interval '3s'")
    reconcile(bench.engine, bench.settings)
    assert broker.llen("ingest") == 1
    assert bench.run(run.run)["publish_count"] == 2


def test_the_gap_to_the_next_publication_doubles_while_messages_wait(bench: Bench, broker: Redis) -> None:
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


def test_a_message_that_was_lost_is_sent_again_after_one_gap_however_often_it_was_sent(
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


def test_a_queued_run_says_that_no_worker_has_been_seen_until_one_is(bench: Bench) -> None:
    [run] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")

    def reason() -> str | None:
        reconcile(bench.engine, bench.settings)
        said: str | None = bench.run(run.run)["waiting_reason"]
        return said

    assert reason() == "no worker has shown itself yet"
    bench.rows("INSERT INTO heartbeats VALUES ('worker', '2026-01-01T10:00:00Z')")
    assert reason() == "no worker has been seen since 2026-01-01T10:00:00Z"
    bench.rows("UPDATE runs SET status = 'waiting', waiting_reason = 'rate', next_attempt_at = clock_timestamp()")
    assert reason() == "no worker has been seen since 2026-01-01T10:00:00Z"
    bench.rows("UPDATE runs SET status = 'queued'")
    record_heartbeat(bench.engine, "worker")
    assert reason() is None


def test_a_step_that_the_database_refuses_keeps_no_other_from_being_done(bench: Bench, broker: Redis) -> None:
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


def test_the_reconciler_leaves_a_run_with_a_live_lease_alone(bench: Bench) -> None:
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


def test_a_slice_that_just_let_go_of_a_partition_is_not_taken_for_dead(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    claim = claim_run(bench.engine, run)
    assert claim
    lease = take_lease(bench.engine, claim, "", bench.settings.lease)
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")  # when it began with the partition
    release_lease(bench.engine, lease, done=True)
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "running"


def test_a_lease_taken_while_the_clock_was_ahead_holds_nobody_up(bench: Bench) -> None:
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


def test_an_abandoned_run_that_was_to_be_cancelled_is_cancelled(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    assert claim_run(bench.engine, run)
    assert request_cancel(bench.engine, run) == "running"
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "cancelled"
