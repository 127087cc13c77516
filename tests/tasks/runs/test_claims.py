"""Test that only the newest claim changes the status of a run, and only between two pages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import text

from sources.contract import TerminalError, TransientError
from tasks.ingest import work_on
from tasks.pipeline.fence import pass_fence
from tasks.runs.claims import Claim, ClaimLost, claim_run, complete_run, end_run, join_run, postpone_run, requeue_run
from tasks.runs.leases import Lease, LeaseLost, take_lease
from tasks.runs.pausing import pause_source
from tasks.runs.requests import request_cancel
from tests.processes import until
from tests.tasks.conftest import Bench, empty_page
from tests.upstreams import canned, item


def test_a_run_is_claimed_by_only_one_worker(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    claim = claim_run(bench.engine, run)
    assert claim
    assert (claim.source, claim.kind, claim.number, claim.attempts) == ("canned", "live", 1, 1)
    assert claim_run(bench.engine, run) is None


def test_a_claim_that_the_database_lost_cannot_move_the_run_of_a_later_claim_with_its_number(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    lost = claim_run(bench.engine, run)
    assert lost
    bench.rows("UPDATE runs SET status = 'queued', claims = 0, claim_token = NULL")
    claim = claim_run(bench.engine, run)
    assert claim
    assert claim.number == lost.number
    with pytest.raises(ClaimLost):
        requeue_run(bench.engine, lost)
    with pytest.raises(ClaimLost):
        take_lease(bench.engine, lost, "", 60)
    requeue_run(bench.engine, claim)


def test_a_claim_of_an_earlier_version_leaves_the_token_of_the_claim_before(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    claim = claim_run(bench.engine, run)
    assert claim
    requeue_run(bench.engine, claim)
    bench.rows("UPDATE runs SET status = 'running', claims = claims + 1")
    with pytest.raises(ClaimLost):
        requeue_run(bench.engine, claim)
    assistant = join_run(bench.engine, run, claim.number + 1)
    assert assistant
    take_lease(bench.engine, assistant, "", 60)


def test_a_waiting_run_is_claimed_when_it_is_due(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    bench.rows("UPDATE runs SET status = 'waiting', next_attempt_at = clock_timestamp() + interval '1 min'")
    assert claim_run(bench.engine, run) is None
    bench.rows("UPDATE runs SET next_attempt_at = clock_timestamp()")
    assert claim_run(bench.engine, run)


def test_a_claim_contains_the_current_pause_of_its_source(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    for interval, reason in (("1 min", "maintenance"), ("-1 min", None)):
        bench.rows("UPDATE sources SET paused_reason = 'maintenance'")
        bench.rows(f"UPDATE sources SET paused_until = clock_timestamp() + interval '{interval}'")
        bench.rows("UPDATE runs SET status = 'queued'")
        claim = claim_run(bench.engine, run)
        assert claim
        assert (claim.paused_reason, claim.paused_until is None) == (reason, reason is None)


def test_a_requeued_run_is_due_at_once_and_its_attempt_does_not_count(bench: Bench) -> None:
    claim = claim_run(bench.engine, bench.request(canned([item()])))
    assert claim
    requeue_run(bench.engine, claim)
    following = claim_run(bench.engine, claim.run)
    assert following
    assert (following.number, following.attempts) == (2, 1)


def test_a_postponed_run_shows_its_reason_and_its_next_attempt(bench: Bench) -> None:
    claim = claim_run(bench.engine, bench.request(canned([item()])))
    assert claim
    postpone_run(bench.engine, claim, "a reason", seconds=60, is_failure=True)
    row = bench.run(claim.run)
    assert (row["status"], row["waits"]) == ("waiting", 1)
    assert row["waiting_reason"] == f"a reason; next attempt at {row['next_attempt_at']:%Y-%m-%dT%H:%M:%SZ}"


def test_a_run_whose_items_were_all_rejected_cannot_succeed(bench: Bench) -> None:
    run = bench.request(canned([item(0, price="much"), item(1, price="more")], [item(2)]))
    bench.slice(run, task_slice=0)
    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(TerminalError) as error:
        complete_run(bench.engine, claim, canned())
    assert error.value.code == "nothing_loaded"
    beginning = f"Every fetched item was rejected (2); see /runs/{run}/rejects. The first of them: "
    first, second = error.value.detail.removeprefix(beginning).split("; ")
    assert first.startswith('{"source_asset_id": "coin-0", ')
    assert first.endswith(""""price": "much"} (expected a number, got 'much')""")
    assert second.startswith('{"source_asset_id": "coin-1", ')


@pytest.mark.parametrize(
    ("broken", "status"), [({"price": "much"}, "partial"), ({"price": None}, "succeeded"), ({}, "succeeded")]
)
def test_rejects_make_a_run_partial_unless_only_prices_are_missing(
    bench: Bench, broken: dict[str, str | None], status: str
) -> None:
    assert bench.ingest(canned([item(0), item(1, **broken)]))["status"] == status


def test_a_run_cancelled_during_its_slice_ends_instead_of_waiting(bench: Bench) -> None:
    def cancel_and_fail(number: int) -> None:
        request_cancel(bench.engine, run)
        raise TransientError("down")

    run = bench.request(canned([item(0)], before=cancel_and_fail))
    row = bench.slice(run)
    assert (row["status"], bool(row["finished_at"])) == ("cancelled", True)


def test_a_slice_stops_writing_after_its_run_has_ended(bench: Bench) -> None:
    def end(number: int) -> None:
        if number == 1:
            bench.rows("UPDATE runs SET status = 'failed', finished_at = clock_timestamp()")

    run = bench.request(canned([item(0)], [item(1)], before=end))
    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(ClaimLost):
        work_on(bench.engine, bench.settings, claim)
    assert bench.one("SELECT count(*) FROM pages") == 1
    assert bench.run(run)["status"] == "failed"


def test_a_slice_cannot_end_a_run_that_was_claimed_again(bench: Bench) -> None:
    def reclaim(number: int) -> None:
        bench.rows("UPDATE runs SET claims = claims + 1")

    run = bench.request(canned([], before=reclaim))
    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(ClaimLost):
        work_on(bench.engine, bench.settings, claim)
    assert bench.run(run)["status"] == "running"


def test_a_failure_does_not_shorten_an_operators_pause(bench: Bench) -> None:
    def refuse(number: int) -> None:
        pause_source(bench.engine, "canned", None, "until the contract is signed")
        raise TerminalError("no key", code="key_refused", pause=timedelta(hours=1))

    assert bench.ingest(canned([item()], before=refuse))["status"] == "failed"
    [source] = bench.rows("SELECT paused_until, paused_reason FROM sources WHERE name = 'canned'")
    assert dict(source) == {"paused_until": None, "paused_reason": "until the contract is signed"}


def test_the_end_of_a_slice_ends_its_assistants(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, assistant = claims
    lease = take_lease(bench.engine, assistant, "a", 60)
    requeue_run(bench.engine, claim)
    with bench.engine.begin() as connection, pytest.raises(LeaseLost):
        pass_fence(connection, lease, empty_page(), 1)
    with pytest.raises(ClaimLost):
        take_lease(bench.engine, assistant, "b", 60)
    assert join_run(bench.engine, claim.run, claim.number) is None


@contextmanager
def committing(bench: Bench, lease: Lease) -> Iterator[None]:
    """Keep a page's transaction open after it passed the fence. Commit it at the end."""
    with bench.engine.begin() as connection:
        pass_fence(connection, lease, empty_page(), 1)
        yield


def test_a_run_ends_after_the_page_that_an_assistant_is_committing(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, assistant = claims
    lease = take_lease(bench.engine, assistant, "a", 60)

    def end() -> int:
        with bench.engine.begin() as connection:
            end_run(connection, claim, "cancelled")
            version: int = connection.execute(text("SELECT version FROM checkpoints")).scalar_one()
            return version

    with ThreadPoolExecutor() as threads:
        with committing(bench, lease):
            version = threads.submit(end)
            until(
                lambda: bench.one("SELECT count(*) FROM pg_locks WHERE NOT granted"), what="the end waits for the lock"
            )
            assert bench.run(claim.run)["status"] == "running"
        assert version.result() == 1
    assert bench.run(claim.run)["status"] == "cancelled"


def test_a_run_can_be_cancelled_while_an_assistant_is_committing(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    lease = take_lease(bench.engine, claims[1], "a", 60)
    with committing(bench, lease):
        bench.rows("SET lock_timeout = '1s'; UPDATE runs SET cancel_requested = true")
