"""Test that the fence of a page lets only the holder of the lease write."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sources.contract import Page
from tasks.pipeline.fence import pass_fence
from tasks.runs.claims import ClaimLost
from tasks.runs.leases import Cancelled, LeaseLost
from tasks.runs.requests import request_cancel
from tests.tasks.conftest import Bench
from tests.tasks.pipeline.conftest import OpenRunOf
from tests.upstreams import FETCHED, canned

HOUR = timedelta(hours=1)


def cursor_page(cursor: dict[str, Any] | None) -> Page:
    return Page(b"[]", "", {}, FETCHED, cursor)


def fence(bench: Bench, run: Any, cursor: dict[str, Any] | None, version: int = 1) -> None:
    with bench.engine.begin() as connection:
        pass_fence(connection, run.lease, cursor_page(cursor), version)


def test_the_fence_moves_the_checkpoint_and_extends_the_lease(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(canned())
    bench.rows("UPDATE checkpoints SET lease_expires = clock_timestamp()")
    fence(bench, run, {"next": 1}, version=7)
    assert dict(bench.rows("SELECT version, cursor FROM checkpoints")[0]) == {"version": 7, "cursor": {"next": 1}}
    assert bench.one("SELECT lease_expires > clock_timestamp() + interval '1s' FROM checkpoints")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("UPDATE checkpoints SET lease_token = lease_token + 1", LeaseLost),
        ("UPDATE checkpoints SET lease_run = NULL", LeaseLost),
        ("UPDATE runs SET claims = claims + 1", ClaimLost),
        ("UPDATE runs SET claim_token = gen_random_uuid()", ClaimLost),
        ("UPDATE runs SET status = 'failed', finished_at = now()", ClaimLost),
    ],
)
def test_the_fence_stops_a_slice_that_lost_its_lease_or_its_claim(
    bench: Bench, open_run: OpenRunOf, change: str, error: type[Exception]
) -> None:
    run = open_run(canned())
    bench.rows(change)
    with pytest.raises(error):
        fence(bench, run, {"next": 1})
    assert bench.one("SELECT version FROM checkpoints") == 0


def test_the_fence_stops_a_run_after_a_cancellation_request(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(canned())
    request_cancel(bench.engine, run.claim.run)
    with pytest.raises(Cancelled):
        fence(bench, run, {"next": 1})
    assert bench.one("SELECT version FROM checkpoints") == 0


def test_only_a_page_that_moves_the_cursor_resets_the_counts_of_attempts_and_waits(
    bench: Bench, open_run: OpenRunOf
) -> None:
    run = open_run(canned())
    bench.rows("UPDATE runs SET attempts = 2, waits = 3")
    fence(bench, run, None)
    assert tuple(bench.rows("SELECT attempts, waits FROM runs")[0].values()) == (2, 3)
    fence(bench, replace(run, lease=replace(run.lease, version=1)), {"next": 1}, version=2)
    assert tuple(bench.rows("SELECT attempts, waits FROM runs")[0].values()) == (0, 0)
