"""Test that only the worker that holds the lease of a partition writes to it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sources.contract import TerminalError, TransientError
from tasks.ingest import work_on
from tasks.pipeline.fence import pass_fence
from tasks.runs.claims import Claim, claim_run
from tasks.runs.leases import Cancelled, LeaseHeld, LeaseLost, PartitionDone, release_lease, take_lease
from tasks.runs.requests import request_cancel
from tests.tasks.conftest import Bench, empty_page
from tests.upstreams import canned, item


def test_a_slice_stops_writing_after_it_lost_its_lease(bench: Bench) -> None:
    run = bench.request(canned([item(0)], [item(1)], before=lambda number: take_over(number)))

    def take_over(number: int) -> None:
        if number == 1:
            bench.rows("UPDATE checkpoints SET lease_token = lease_token + 1")

    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(LeaseLost):
        work_on(bench.engine, bench.settings, claim)
    assert bench.one("SELECT count(*) FROM quotes") == 1
    assert bench.one("SELECT count(*) FROM pages") == 1
    assert bench.one("SELECT cursor->>'next' FROM checkpoints") == "1"


def test_a_run_waits_while_another_run_has_the_lease(bench: Bench) -> None:
    bench.ingest(canned([item(0)]))
    bench.rows("UPDATE checkpoints SET lease_run = gen_random_uuid(), lease_expires = clock_timestamp() + '3 s'")
    run = bench.ingest(canned([item(1)]))
    assert run["status"] == "waiting"
    holder = bench.one("SELECT lease_run FROM checkpoints")
    assert run["waiting_reason"].startswith(f"partition '' is leased to run {holder}; next attempt at 2")
    assert bench.one("SELECT count(*) FROM quotes") == 1


def test_a_slice_and_its_assistant_do_not_take_each_others_leases(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    for first, second, partition in ((*claims, "a"), (*reversed(claims), "b")):
        take_lease(bench.engine, first, partition, 60)
        with pytest.raises(LeaseHeld) as held:
            take_lease(bench.engine, second, partition, 60)
        assert held.value.same_run
        assert 55 < held.value.seconds <= 60
    with pytest.raises(LeaseHeld):
        take_lease(bench.engine, claims[0], "b", 60, takeover_after=10)


def test_a_partition_finished_by_an_assistant_is_done_for_the_slice(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, assistant = claims
    release_lease(bench.engine, take_lease(bench.engine, assistant, "a", 60), done=True)
    with pytest.raises(PartitionDone):
        take_lease(bench.engine, claim, "a", 60)


def test_a_slice_takes_over_the_lease_of_a_silent_assistant(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, assistant = claims
    lost = take_lease(bench.engine, assistant, "a", 60)
    bench.rows("UPDATE checkpoints SET lease_expires = lease_expires - interval '11s'")
    take_lease(bench.engine, claim, "a", 60, takeover_after=10)
    with bench.engine.begin() as connection, pytest.raises(LeaseLost):
        pass_fence(connection, lost, empty_page(), 1)


def test_the_next_slice_takes_over_the_leases_of_the_previous_slice(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, assistant = claims
    first = take_lease(bench.engine, assistant, "a", 60)
    bench.rows("UPDATE runs SET status = 'queued'")  # The reconciler also keeps the lease.
    following = claim_run(bench.engine, claim.run)
    assert following
    assert take_lease(bench.engine, following, "a", 60).token > first.token


def test_an_expired_lease_can_be_taken(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, assistant = claims
    first = take_lease(bench.engine, assistant, "a", 60)
    bench.rows("UPDATE checkpoints SET lease_expires = clock_timestamp()")
    assert take_lease(bench.engine, claim, "a", 60).token > first.token


def test_a_lease_that_the_database_lost_does_not_have_the_token_of_a_later_one(
    bench: Bench, claims: tuple[Claim, Claim]
) -> None:
    claim, assistant = claims
    lost = take_lease(bench.engine, assistant, "a", 60)
    bench.rows("UPDATE checkpoints SET lease_run = NULL, lease_expires = NULL, lease_token = 0")
    take_lease(bench.engine, claim, "a", 60)
    with bench.engine.begin() as connection, pytest.raises(LeaseLost):
        pass_fence(connection, lost, empty_page(), 1)


def test_a_run_with_a_requested_cancellation_gets_no_lease(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    request_cancel(bench.engine, claims[0].run)
    for claim in claims:
        with pytest.raises(Cancelled):
            take_lease(bench.engine, claim, "a", 60)


def test_a_partition_is_not_done_if_its_checkpoint_has_changed(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    lease = take_lease(bench.engine, claims[0], "a", 60)
    bench.rows("UPDATE checkpoints SET version = version + 1")
    with pytest.raises(LeaseLost, match="the checkpoint of partition 'a' changed"):
        release_lease(bench.engine, lease, done=True)
    assert bench.one("SELECT done_by FROM checkpoints") is None


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (TransientError("no\x00 response", code="slow"), None),
        (TerminalError("no response", code="slow", pause=timedelta(minutes=1)), 60),
    ],
    ids=["transient", "terminal"],
)
def test_a_failed_partition_keeps_its_error(
    bench: Bench, claims: tuple[Claim, Claim], error: TransientError | TerminalError, pause: float | None
) -> None:
    claim = claims[0]
    release_lease(bench.engine, take_lease(bench.engine, claim, "a", 60), failed=error)
    [checkpoint] = bench.rows("SELECT lease_run, done_by, failed_by, error FROM checkpoints")
    assert dict(checkpoint) == {
        "lease_run": None,
        "done_by": None,
        "failed_by": claim.run,
        "error": {"code": "slow", "detail": "no response", "pause": pause},
    }
    release_lease(bench.engine, take_lease(bench.engine, claim, "a", 60), done=True)
    assert bench.one("SELECT error FROM checkpoints") is None
