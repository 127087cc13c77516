"""Test that processes of an earlier version, which do not know `runs.after_run`, keep the order of runs.

The statements are those of the last version whose schema was revision 0013. During an upgrade, its processes run next
to the new ones, on the new schema.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tasks.ingest import work_on
from tasks.runs.claims import claim_run
from tasks.runs.reconciler import reconcile
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

CLAIM = """
    UPDATE runs SET status = 'running', claims = claims + 1, attempts = attempts + 1,
           claimed_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp()),
           next_attempt_at = NULL, waiting_reason = NULL, published_at = NULL, publish_count = 0
      FROM sources
     WHERE runs.id = :run AND status IN ('queued', 'waiting') AND sources.name = runs.source
       AND (next_attempt_at IS NULL OR next_attempt_at <= clock_timestamp())
    RETURNING runs.id AS run, claims AS number, source, kind, parameters, attempts,
              request_id, traceparent, scheduled_for, claimed_at AS now,
              CASE WHEN paused_until > clock_timestamp() OR paused_until IS NULL
                   THEN paused_reason END AS paused_reason,
              CASE WHEN paused_until > clock_timestamp() THEN paused_until END AS paused_until
"""
INSERT = """
    INSERT INTO runs (id, source, kind, status, parameters, scheduled_for, requested_by, request_id, traceparent)
    VALUES (:run, :source, :kind, 'queued', CAST('{}' AS jsonb), NULL, 'test', NULL, NULL)
    ON CONFLICT DO NOTHING RETURNING id
"""
FIND_UNFINISHED = """
    SELECT id, parameters, scheduled_for FROM runs
     WHERE source = :source AND (scheduled_for = NULL
        OR kind = :kind AND status IN ('queued', 'running', 'waiting'))
     ORDER BY scheduled_for = NULL DESC NULLS LAST LIMIT 1
"""
FIND_DUE = """
    SELECT id FROM runs
     WHERE (status = 'queued' OR status = 'waiting' AND next_attempt_at <= clock_timestamp())
       AND (published_at IS NULL OR published_at NOT BETWEEN clock_timestamp() - interval '2 s'
            * CASE WHEN false THEN 1 ELSE 2 ^ least(publish_count - 1, 8) END AND clock_timestamp())
     ORDER BY requested_at LIMIT 500
"""
NOTE_PUBLISHED = """
    UPDATE runs SET published_at = clock_timestamp(), publish_count = publish_count + 1
     WHERE id = :run AND status IN ('queued', 'waiting')
"""
CANCEL = """
    UPDATE runs
       SET cancel_requested = true,
           finished_at = CASE WHEN status = 'running' THEN NULL ELSE clock_timestamp() END,
           status = CASE WHEN status = 'running' THEN status ELSE 'cancelled' END
     WHERE id = :run AND status IN ('queued', 'running', 'waiting')
"""
END = """
    UPDATE runs SET status = 'succeeded', finished_at = clock_timestamp(), error_code = NULL, error_detail = NULL
     WHERE id = :run AND claims = :number AND status = 'running'
"""

SOURCE = canned([item()])


@pytest.fixture
def runs(bench: Bench) -> tuple[uuid.UUID, uuid.UUID]:
    """Return a run that an earlier version has claimed, and the run that starts after it."""
    current = bench.request(SOURCE)
    assert len(bench.rows(CLAIM, run=current)) == 1
    return current, bench.request(SOURCE, after_current=True)


def request(bench: Bench, kind: str = "live") -> uuid.UUID | None:
    """Insert a run as an earlier version does. Return its id, or None if that version finds an unfinished run."""
    rows = bench.rows(INSERT, run=uuid.uuid4(), source=SOURCE.name, kind=kind)
    return rows[0]["id"] if rows else None


def unfinished(bench: Bench) -> list[Any]:
    return [row["id"] for row in bench.rows(FIND_UNFINISHED, source=SOURCE.name, kind="live")]


def test_a_worker_cannot_claim_a_run_before_the_run_that_it_follows_has_ended(
    bench: Bench, runs: tuple[uuid.UUID, uuid.UUID]
) -> None:
    current, successor = runs
    assert bench.rows(CLAIM, run=successor) == []
    assert (bench.run(successor)["status"], bench.run(successor)["claims"]) == ("queued", 0)
    bench.rows(END, run=current, number=1)
    assert [row["run"] for row in bench.rows(CLAIM, run=successor)] == [successor]


def test_a_claimed_successor_can_end_and_can_be_requeued(bench: Bench, runs: tuple[uuid.UUID, uuid.UUID]) -> None:
    current, successor = runs
    bench.rows(END, run=current, number=1)
    bench.rows(CLAIM, run=successor)
    bench.let_leases_run_out()
    assert bench.run(successor)["status"] == "queued"
    claim = claim_run(bench.engine, successor)
    assert claim
    work_on(bench.engine, bench.settings, claim)
    assert bench.run(successor)["status"] == "succeeded"


@pytest.mark.parametrize("ended", [False, True])
def test_a_request_finds_the_successor_instead_of_creating_a_second_run(
    bench: Bench, runs: tuple[uuid.UUID, uuid.UUID], ended: bool
) -> None:
    current, successor = runs
    if ended:
        bench.rows(END, run=current, number=1)
    assert request(bench) is None
    assert set(unfinished(bench)) <= ({successor} if ended else {current, successor})
    assert request(bench, "backfill")
    assert request(bench, "replay")


@pytest.mark.parametrize("cancelled", ["current", "successor"])
def test_a_cancelled_run_holds_up_no_other(bench: Bench, runs: tuple[uuid.UUID, uuid.UUID], cancelled: str) -> None:
    current, successor = runs
    if cancelled == "successor":
        bench.rows(CANCEL, run=successor)
        bench.rows(END, run=current, number=1)
        assert request(bench)
    else:
        bench.rows(CANCEL, run=current)
        bench.let_leases_run_out()
        assert bench.run(current)["status"] == "cancelled"
        assert bench.rows(CLAIM, run=successor)


def test_publications_of_a_waiting_run_do_not_delay_it_after_the_wait(
    bench: Bench, runs: tuple[uuid.UUID, uuid.UUID]
) -> None:
    current, successor = runs
    for _ in range(9):
        assert bench.rows(FIND_DUE) == [{"id": successor}]
        bench.rows(NOTE_PUBLISHED, run=successor)
        bench.rows("UPDATE runs SET published_at = published_at - interval '2.1 s' WHERE id = :run", run=successor)
    bench.rows(END, run=current, number=1)
    reconcile(bench.engine, bench.settings)
    assert bench.one(
        "SELECT clock_timestamp() - published_at < interval '2 s' FROM runs WHERE id = :run", run=successor
    )
    bench.rows(NOTE_PUBLISHED, run=successor)
    assert bench.run(successor)["publish_count"] == 3
