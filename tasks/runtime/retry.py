"""Retry whole transactions after errors that Postgres reports as transient."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import backoff
import psycopg2
import structlog
from sqlalchemy.exc import SQLAlchemyError

from store.errors import DatabaseError, classify, describe

log = structlog.get_logger()

T = TypeVar("T")

DATABASE_ERRORS = (SQLAlchemyError, psycopg2.Error)
"""All exceptions that database calls raise. A COPY raises exceptions of the driver itself."""

_TRANSIENT = (DatabaseError.CONFLICT, DatabaseError.CONNECTION_LOST)
# The waits are at most 0.1, 0.2, 0.4, 0.8, 1.6 and 2 seconds. They block a process of the worker.
_MIN_WAIT, _MAX_WAIT, _MAX_ATTEMPTS = 0.1, 2.0, 7


def retry_transaction(transaction: Callable[[], T], until: float) -> T:
    """Run a transaction and return its result. Retry it after a conflict or a lost connection.

    transaction: an idempotent function, because the response to a COMMIT can be lost.
    until:       the time on the monotonic clock after which no retry starts.
    """
    with_retries = backoff.on_exception(
        backoff.expo,
        DATABASE_ERRORS,
        factor=_MIN_WAIT,
        max_value=_MAX_WAIT,
        max_tries=_MAX_ATTEMPTS,
        # `max_time` is unsuitable: it counts from the start of the failed attempt, on a clock that can be set back.
        giveup=lambda error: classify(error) not in _TRANSIENT or time.monotonic() >= until,
        on_backoff=_log_retry,
        logger=None,
    )
    return with_retries(transaction)()


def _log_retry(details: Mapping[str, Any]) -> None:
    log.warning(
        "transaction_retried", reason=describe(details["exception"]), elapsed_seconds=round(details["elapsed"], 2)
    )
