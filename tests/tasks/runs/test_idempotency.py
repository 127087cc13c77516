"""Test that repeated requests with an Idempotency-Key return the runs of the first request."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.runs.idempotency import IdempotencyMismatch, recall_runs, remember_runs
from tasks.runs.requests import RunRequest, request_runs
from tests.processes import until
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_a_repeated_key_returns_the_first_run_even_after_it_has_ended(bench: Bench) -> None:
    source = canned([item()])
    bench.register(source)
    [first] = request_runs(bench.engine, [RunRequest("canned")], requested_by="a", idempotency_key="k")
    bench.slice(first.run)
    [again] = request_runs(bench.engine, [RunRequest("canned")], requested_by="a", idempotency_key="k")
    assert (again.run, again.created) == (first.run, False)
    with pytest.raises(IdempotencyMismatch, match="already used with a different request"):
        request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a", idempotency_key="k")


def test_an_expired_key_can_be_reused(bench: Bench) -> None:
    request_runs(bench.engine, [RunRequest("coinpaprika")], requested_by="a", idempotency_key="k")
    bench.rows("UPDATE idempotency_keys SET expires_at = clock_timestamp()")
    [other] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a", idempotency_key="k")
    assert other.created


def test_a_second_request_with_the_same_key_waits_for_the_first_request(bench: Bench) -> None:
    runs = [uuid.uuid4(), uuid.uuid4()]

    def recall() -> list[uuid.UUID]:
        with bench.engine.begin() as connection:
            return recall_runs(connection, "k", b"hash")

    with ThreadPoolExecutor(1) as threads:
        with bench.engine.begin() as connection:
            assert recall_runs(connection, "k", b"hash") == []
            second = threads.submit(recall)
            until(
                lambda: bench.one("SELECT count(*) FROM pg_locks WHERE NOT granted"),
                what="the second request waits for the lock",
            )
            remember_runs(connection, "k", b"hash", runs)
        assert second.result(30) == runs
