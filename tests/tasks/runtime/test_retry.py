"""Test that only transient errors are retried, and only until the deadline."""

from __future__ import annotations

import time

import pytest
from psycopg2 import errors
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from tasks.runtime.retry import retry_transaction

CONFLICT, DIVISION_BY_ZERO = "40001", "22012"


class Transaction:
    """A transaction that fails with this Postgres error code in its first `failures` attempts.

    It then returns the number of the attempt.
    """

    def __init__(self, engine: Engine, code: str, failures: int):
        self.engine, self.code, self.failures, self.attempts = engine, code, failures, 0

    def __call__(self) -> int:
        self.attempts += 1
        if self.attempts <= self.failures:
            with self.engine.begin() as connection:
                connection.execute(text(f"DO $$ BEGIN RAISE USING ERRCODE = '{self.code}'; END $$"))
        return self.attempts


def test_a_transaction_is_retried_after_a_conflict_and_each_retry_is_logged(engine: Engine) -> None:
    with capture_logs() as events:
        assert retry_transaction(Transaction(engine, CONFLICT, failures=2), time.monotonic() + 30) == 3
    assert [event["event"] for event in events] == ["transaction_retried"] * 2
    assert {event["reason"] for event in events} == {"Postgres reported serialization_failure (40001)"}


def test_an_error_that_indicates_a_bug_is_not_retried(engine: Engine) -> None:
    transaction = Transaction(engine, DIVISION_BY_ZERO, failures=1)
    with pytest.raises(DBAPIError):
        retry_transaction(transaction, time.monotonic() + 30)
    assert transaction.attempts == 1


def test_no_retry_starts_after_the_deadline(engine: Engine) -> None:
    transaction = Transaction(engine, CONFLICT, failures=1)
    with pytest.raises(DBAPIError):
        retry_transaction(transaction, time.monotonic())
    assert transaction.attempts == 1


def test_an_error_raised_by_the_database_driver_is_retried(engine: Engine) -> None:
    """COPY raises errors of the driver, not of SQLAlchemy."""
    attempts: list[int] = []

    def copy() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise errors.AdminShutdown
        return len(attempts)

    assert retry_transaction(copy, time.monotonic() + 30) == 2
