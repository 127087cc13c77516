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
"""Every error of Postgres: a COPY raises the driver's own."""

_PASSING = (DatabaseError.CONFLICT, DatabaseError.LOST)
# Half a second's restart is over with the third try; five seconds are the most that a worker's slot is held asleep.
_FIRST_GAP, _LONGEST_GAP, _TRIES = 0.1, 2.0, 7


def retry_transaction(transaction: Callable[[], T], until: float) -> T:
    """What the transaction gives, begun again while others are in its way or the connection breaks.

    transaction: must bear to be carried out twice, since the answer to a COMMIT can get lost.
    until: on the monotonic clock, when it is begun no more.
    """
    tried = backoff.on_exception(
        backoff.expo,
        DATABASE_ERRORS,
        factor=_FIRST_GAP,
        max_value=_LONGEST_GAP,
        max_tries=_TRIES,
        # Not `max_time`: that goes by when the try that failed had begun, and by a clock that may be set.
        giveup=lambda error: classify(error) not in _PASSING or time.monotonic() >= until,
        on_backoff=_say,
        logger=None,
    )
    return tried(transaction)()


def _say(details: Mapping[str, Any]) -> None:
    log.warning(
        "transaction_retried", reason=describe(details["exception"]), elapsed_seconds=round(details["elapsed"], 2)
    )
