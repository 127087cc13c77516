"""Test that no two advisory locks are the same, and that all of them are declared in one module."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from store.locks import Lock, NamedLock, lock_statement, take_lock, take_named_lock
from tests.processes import ROOT

NUMBERS = {"MIGRATION": 7_274_651, "DECISIONS": 7_274_652, "CLOCK": 7_274_653, "HISTORY": 7_274_654}
SEEDS = {"VALIDATORS": 0, "IDEMPOTENCY_KEY": 1, "BACKFILLS": 2}
"""The numbers of earlier versions, which run next to this one during an upgrade."""

FOLDERS = ("app", "sources", "store", "tasks")
NAMES = ("coingecko", "feed")

TAKERS: dict[str, Callable[[Connection], None]] = {
    **{lock.name: partial(take_lock, lock=lock) for lock in Lock},
    **{f"{lock.name} {name}": partial(take_named_lock, lock=lock, name=name) for lock in NamedLock for name in NAMES},
}


def test_a_new_lock_needs_a_new_number_and_no_number_changes() -> None:
    assert {name: lock.value for name, lock in Lock.__members__.items()}.items() >= NUMBERS.items()
    assert {name: lock.value for name, lock in NamedLock.__members__.items()}.items() >= SEEDS.items()


def test_no_lock_blocks_another_but_each_blocks_itself(engine: Engine) -> None:
    with closing(engine.connect()) as holder, closing(engine.connect()) as other:
        for name, take in TAKERS.items():
            take(holder)
            other.execute(text("SET LOCAL lock_timeout = '20ms'"))
            for other_name, take_other in TAKERS.items():
                if other_name != name:
                    take_other(other)
            with pytest.raises(OperationalError, match="lock timeout"):
                take(other)
            holder.rollback()
            other.rollback()


def test_a_lock_ends_with_its_transaction(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(lock_statement(Lock.CLOCK)))
    with engine.begin() as other:
        other.execute(text("SET LOCAL lock_timeout = '20ms'"))
        take_lock(other, Lock.CLOCK)


def test_no_other_module_takes_an_advisory_lock() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    takers = [file.relative_to(ROOT).as_posix() for file in files if "pg_advisory" in file.read_text()]
    assert takers == ["store/locks.py"]
