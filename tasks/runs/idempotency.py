"""Store the runs of each Idempotency-Key, and return them when the request is repeated."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, text

from settings import get_settings
from store.locks import NamedLock, take_named_lock


class IdempotencyMismatch(Exception):
    """This Idempotency-Key was already used with a different request."""


def recall_runs(connection: Connection, key: str, request_hash: bytes) -> list[uuid.UUID]:
    """Return the runs that are stored for this key, or an empty list. Delete expired keys.

    Raise IdempotencyMismatch if the key was used with a different request. Lock the key, so that a second request with
    the same key waits here until the first request is committed.
    """
    connection.execute(text("DELETE FROM idempotency_keys WHERE expires_at < (SELECT service_time())"))
    take_named_lock(connection, NamedLock.IDEMPOTENCY_KEY, key)
    row = connection.execute(
        text("SELECT request_hash, answer FROM idempotency_keys WHERE key = :key"), {"key": key}
    ).one_or_none()
    if row is None:
        return []
    if bytes(row.request_hash) != request_hash:
        raise IdempotencyMismatch("This Idempotency-Key was already used with a different request.")
    return [uuid.UUID(run) for run in row.answer]


def remember_runs(connection: Connection, key: str, request_hash: bytes, runs: Sequence[uuid.UUID]) -> None:
    """Store the runs of this key for IDEMPOTENCY_KEYS_KEPT seconds."""
    connection.execute(
        text("""
            INSERT INTO idempotency_keys (key, request_hash, answer, expires_at)
            VALUES (:key, :request_hash, CAST(:answer AS jsonb), service_time() + :lifetime)
        """),
        {
            "key": key,
            "request_hash": request_hash,
            "answer": json.dumps([str(run) for run in runs]),
            "lifetime": timedelta(seconds=get_settings().idempotency_keys_kept),
        },
    )
