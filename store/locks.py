"""Declare the advisory locks of Postgres that the service takes. Each ends with its transaction.

Two versions may run at once, so a number must never change.
"""

from __future__ import annotations

from enum import IntEnum, unique

from sqlalchemy import Connection, text


@unique
class Lock(IntEnum):
    """The locks of the whole service, by their numbers."""

    MIGRATION = 7_274_651
    DECISIONS = 7_274_652
    CLOCK = 7_274_653
    HISTORY = 7_274_654


@unique
class NamedLock(IntEnum):
    """The locks that exist once for each name, such as a source. Each is the hash of the name with this seed."""

    VALIDATORS = 0
    IDEMPOTENCY_KEY = 1
    BACKFILLS = 2


def lock_statement(lock: Lock) -> str:
    """Return the SQL statement that waits for a lock and takes it."""
    return f"SELECT pg_advisory_xact_lock({lock.value})"


def take_lock(connection: Connection, lock: Lock) -> None:
    """Wait for a lock, and hold it until the end of the transaction."""
    connection.execute(text(lock_statement(lock)))


def take_named_lock(connection: Connection, lock: NamedLock, name: str) -> None:
    """Wait for the lock of a name, and hold it until the end of the transaction."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, :seed))"), {"name": name, "seed": lock.value}
    )
