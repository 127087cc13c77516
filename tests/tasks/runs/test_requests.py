"""Test that repeated and simultaneous requests for the same run create only one run."""

from __future__ import annotations

import threading
import uuid
from collections import Counter

import pytest

from tasks.runs.requests import (
    RunConflict,
    RunRequest,
    UnknownSource,
    request_cancel,
    request_runs,
)
from tests.tasks.conftest import Bench


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
