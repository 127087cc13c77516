"""Only errors that may pass are retried, and only until the given time."""

from __future__ import annotations

import time

import pytest
from psycopg2 import errors
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from tasks.runtime.retry import retry_transaction

CONFLICT, MISTAKE = "40001", "22012"


class Transaction:
    """Raise an error of Postgres with this code in the first `failures` attempts, then return the attempt's number."""

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


def test_a_mistake_of_our_own_is_not_retried(engine: Engine) -> None:
    transaction = Transaction(engine, MISTAKE, failures=1)
    with pytest.raises(DBAPIError):
        retry_transaction(transaction, time.monotonic() + 30)
    assert transaction.attempts == 1


def test_no_retry_starts_after_the_given_time(engine: Engine) -> None:
    transaction = Transaction(engine, CONFLICT, failures=1)
    with pytest.raises(DBAPIError):
        retry_transaction(transaction, time.monotonic())
    assert transaction.attempts == 1


def test_an_error_of_the_driver_itself_is_retried(engine: Engine) -> None:
    """A COPY raises such errors."""
    attempts: list[int] = []

    def copy() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise errors.AdminShutdown
        return len(attempts)

    assert retry_transaction(copy, time.monotonic() + 30) == 2
