"""Test that a sweep is remembered in the process and in Redis, each without the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from tasks.set_backs.memory import Sweep, in_process, recall_sweeps, remember_sweep
from tasks.set_backs.position import Position

HERE, SWEEP = Position(5, "77", 1, "0/1"), Sweep("a", 3)


@pytest.fixture(autouse=True)
def _no_memory(broker: Redis) -> Iterator[None]:
    in_process.clear()
    yield
    in_process.clear()


def test_a_sweep_is_remembered_for_its_database_on_every_timeline() -> None:
    assert recall_sweeps(HERE) == []
    remember_sweep(HERE, SWEEP)
    assert recall_sweeps(HERE._replace(timeline=2, lsn="0/0")) == [SWEEP, SWEEP]
    assert recall_sweeps(HERE._replace(database=6)) == []
    assert recall_sweeps(HERE._replace(system_identifier="78")) == []


def test_a_sweep_is_remembered_by_other_processes_and_without_redis(broker: Redis) -> None:
    remember_sweep(HERE, SWEEP)
    in_process.clear()
    assert recall_sweeps(HERE) == [SWEEP]
    remember_sweep(HERE, SWEEP)
    broker.flushall()
    assert recall_sweeps(HERE) == [SWEEP]


def test_a_damaged_value_in_redis_is_ignored(broker: Redis) -> None:
    remember_sweep(HERE, SWEEP)
    in_process.clear()
    [key] = broker.keys("kasparro:sweep:*")
    for value in ("{", "[1]", "7"):
        broker.set(key, value)
        assert recall_sweeps(HERE) == []
