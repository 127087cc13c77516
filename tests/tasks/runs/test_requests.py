"""Asking for runs: once is once, whoever asks and however often."""

from __future__ import annotations

import threading
import uuid
from collections import Counter

import pytest

from tasks.runs.requests import (
    IdempotencyMismatch,
    RunConflict,
    RunRequest,
    UnknownSource,
    pause_source,
    request_cancel,
    request_runs,
    resume_source,
)
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_a_source_that_is_asked_for_again_while_it_runs_answers_with_that_run(bench: Bench) -> None:
    [first] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    [second] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="b")
    assert (first.created, second.created) == (True, False)
    assert first.run == second.run


def test_many_who_ask_at_once_get_one_run(bench: Bench) -> None:
    answers: list[uuid.UUID] = []
    together = threading.Barrier(8)

    def ask(order: int) -> None:
        together.wait(10)
        wanted = [RunRequest("coingecko"), RunRequest("coinpaprika")][::order]
        answers.extend(it.run for it in request_runs(bench.engine, wanted, requested_by="crowd"))

    threads = [threading.Thread(target=ask, args=(order,)) for order in (1, -1) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(Counter(answers).values()) == [8, 8]
    assert bench.one("SELECT count(*) FROM runs") == 2


def test_a_run_with_other_parameters_in_the_way_is_named(bench: Bench) -> None:
    [live] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    wanted = [RunRequest("coinpaprika"), RunRequest("coingecko", full_refresh=True)]
    with pytest.raises(RunConflict) as conflict:
        request_runs(bench.engine, wanted, requested_by="b")
    assert conflict.value.run == live.run
    assert bench.one("SELECT count(*) FROM runs") == 1


def test_an_unknown_source_is_named_with_those_there_are(bench: Bench) -> None:
    with pytest.raises(UnknownSource, match=r"'coingeko'.*coinpaprika, coingecko"):
        request_runs(bench.engine, [RunRequest("coingeko")], requested_by="a")


def test_an_idempotency_key_gives_the_first_answer_again_even_after_the_run(bench: Bench) -> None:
    source = canned([item()])
    bench.register(source)
    [first] = request_runs(bench.engine, [RunRequest("canned")], requested_by="a", idempotency_key="k")
    bench.slice(first.run)
    [again] = request_runs(bench.engine, [RunRequest("canned")], requested_by="a", idempotency_key="k")
    assert (again.run, again.created) == (first.run, False)
    with pytest.raises(IdempotencyMismatch):
        request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a", idempotency_key="k")


def test_an_idempotency_key_is_forgotten_in_the_end(bench: Bench) -> None:
    request_runs(bench.engine, [RunRequest("coinpaprika")], requested_by="a", idempotency_key="k")
    bench.rows("UPDATE idempotency_keys SET expires_at = clock_timestamp()")
    [other] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a", idempotency_key="k")
    assert other.created


def test_resuming_a_source_makes_its_waiting_run_due(bench: Bench) -> None:
    source = canned([item()])
    pause_source(bench.engine, "canned", None, "maintenance")
    run = bench.ingest(source)
    assert run["status"] == "waiting"
    assert run["waiting_reason"].startswith("the source is paused: maintenance; looks again at 2")
    resume_source(bench.engine, "canned")
    assert bench.slice(run["id"])["status"] == "succeeded"


def test_a_queued_or_waiting_run_is_cancelled_at_once(bench: Bench) -> None:
    [queued] = request_runs(bench.engine, [RunRequest("coingecko")], requested_by="a")
    assert request_cancel(bench.engine, queued.run) == "cancelled"
    assert bench.slice(queued.run)["status"] == "cancelled"
    assert request_cancel(bench.engine, queued.run) == "cancelled"
    assert request_cancel(bench.engine, uuid.uuid4()) is None
