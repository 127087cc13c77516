"""Test that the records of seen quotes are deleted once their run has ended, and not before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from tasks.archive import seen_quotes
from tasks.archive.seen_quotes import delete_seen
from tasks.celery import celery
from tests.processes import Process, until
from tests.tasks.conftest import Bench
from tests.tasks.retraction.whole_truth import days, truth_in

SEEN = "SELECT count(*) FROM seen_quotes"


def test_only_the_seen_quotes_of_finished_runs_are_deleted(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen_quotes, "DELETE_BATCH_ROWS", 3)
    with truth_in(bench, tmp_path) as truth:
        truth.write("btc.csv", *days("btc", range(1, 6)))
        truth.refresh()
        running = bench.request(truth.source, full_refresh=True)
        bench.slice(running, task_slice=-1)
        bench.rows("INSERT INTO seen_quotes SELECT gen_random_uuid(), 1, now()")  # of a run that the database lost
        assert bench.one(SEEN) == 11
        assert not delete_seen(bench.engine, seconds=0)
        assert delete_seen(bench.engine, seconds=10)
        assert (bench.one(SEEN), bench.one("SELECT DISTINCT run FROM seen_quotes")) == (5, running)
        assert truth.finish(running)["retraction"]["missing"] == 0


def test_a_control_worker_deletes_them(
    bench: Bench, tmp_path: Path, start: Callable[..., Process], broker: Redis
) -> None:
    bench.rows("INSERT INTO seen_quotes SELECT gen_random_uuid(), 1, now()")
    start("control")
    celery.send_task("kasparro.retain", queue="control")
    until(lambda: bench.one(SEEN) == 0)
