"""Test that repeated and simultaneous requests for the same run create only one run."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from tasks.runs.claims import claim_run, complete_run
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import (
    Requested,
    RunConflict,
    RunRequest,
    UnknownSource,
    request_cancel,
    request_runs,
)
from tasks.runs.slots import request_slot
from tests.tasks.conftest import Bench
from tests.upstreams import OBSERVED, canned


def test_a_request_for_a_source_with_an_unfinished_run_returns_that_run(bench: Bench) -> None:
    [first] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    [second] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="b")
    assert (first.created, second.created) == (True, False)
    assert first.run == second.run


def test_many_simultaneous_requests_create_one_run(bench: Bench) -> None:
    runs: list[uuid.UUID] = []
    barrier = threading.Barrier(8)

    def request(order: int) -> None:
        barrier.wait(10)
        requests = [RunRequest("coingecko"), RunRequest("coinpaprika")][::order]
        runs.extend(result.run for result in request_runs(bench.engine, requests, requested_by="crowd"))

    threads = [threading.Thread(target=request, args=(order,)) for order in (1, -1) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(Counter(runs).values()) == [8, 8]
    assert bench.one("SELECT count(*) FROM runs") == 2


def test_a_conflict_with_an_unfinished_run_names_it_and_creates_no_run(bench: Bench) -> None:
    [live] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    requests = [RunRequest("coinpaprika"), RunRequest("coingecko", full_refresh=True)]
    with pytest.raises(RunConflict) as conflict:
        request_runs(bench.engine, requests, requested_by="b")
    assert conflict.value.run == live.run
    assert bench.one("SELECT count(*) FROM runs") == 1


def test_the_error_for_an_unknown_source_lists_the_known_sources(bench: Bench) -> None:
    with pytest.raises(UnknownSource, match=r"'coingeko'.*coinpaprika, coingecko"):
        request_runs(bench.engine, [RunRequest("coingeko")], requested_by="a")


def test_a_queued_or_waiting_run_is_cancelled_at_once(bench: Bench) -> None:
    [queued] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    assert request_cancel(bench.engine, queued.run) == "cancelled"
    assert bench.slice(queued.run)["status"] == "cancelled"
    assert request_cancel(bench.engine, queued.run) == "cancelled"
    assert request_cancel(bench.engine, uuid.uuid4()) is None


def after_current(bench: Bench, **changes: Any) -> Requested:
    [result] = request_runs(bench.engine, [RunRequest("coingecko", after_current=True, **changes)], requested_by="test")
    return result


def test_a_run_after_the_current_one_starts_when_that_has_ended(bench: Bench, broker: Redis) -> None:
    run = bench.request(canned(name="coingecko"))
    current = claim_run(bench.engine, run)
    assert current
    broker.flushall()
    successor = after_current(bench)
    assert (successor.created, after_current(bench)) == (True, replace(successor, created=False))
    reconcile(bench.engine, bench.settings)
    assert broker.llen("ingest") == 0
    assert claim_run(bench.engine, successor.run) is None
    complete_run(bench.engine, current, canned())
    [other] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="test")
    assert other == Requested(successor.run, created=False)
    reconcile(bench.engine, bench.settings)
    assert broker.llen("ingest") == 1
    assert claim_run(bench.engine, successor.run)
    later = after_current(bench)
    assert (later.created, bench.run(later.run)["after_run"]) == (True, successor.run)


def test_a_current_run_that_has_not_started_needs_no_successor(bench: Bench) -> None:
    run = bench.request(canned(name="coingecko"))
    assert after_current(bench) == Requested(run, created=False)
    successor = after_current(bench, full_refresh=True)
    assert (successor.created, bench.run(successor.run)["parameters"]) == (True, {"full_refresh": True})
    with pytest.raises(RunConflict) as conflict:
        after_current(bench)
    assert conflict.value.run == successor.run
    assert request_cancel(bench.engine, successor.run) == "cancelled"
    assert after_current(bench, full_refresh=True).run not in (run, successor.run)


def test_simultaneous_requests_queue_one_run_while_the_current_one_ends(bench: Bench) -> None:
    """Each run either starts after the requests, or is the one that starts after the current run."""
    source = canned(name="coingecko")
    for _ in range(5):
        current = claim_run(bench.engine, bench.request(source))
        assert current
        with ThreadPoolExecutor(5) as pool:
            results = [pool.submit(after_current, bench) for _ in range(4)]
            pool.submit(complete_run, bench.engine, current, canned()).result(30)
            runs = {result.result(30).run for result in results}
        assert len(runs) == 1
        assert current.run not in runs
        request_cancel(bench.engine, runs.pop())


def test_a_slot_is_dropped_while_a_successor_is_queued(bench: Bench) -> None:
    current = claim_run(bench.engine, bench.request(canned(name="coingecko")))
    assert current
    after_current(bench)
    complete_run(bench.engine, current, canned())
    assert request_slot(bench.engine, "coingecko", OBSERVED, after=None).outcome == "dropped"
