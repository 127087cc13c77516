"""Classify Postgres errors by the caller's next step: retry now, retry later, wait, or fix a bug.

Use the SQLSTATE, not the exception class. A server that became a standby rejects writes with an InternalError.
"""

from __future__ import annotations

from enum import Enum, auto

import psycopg2
from psycopg2 import errorcodes
from sqlalchemy import exc


class DatabaseError(Enum):
    CONFLICT = auto()
    """The server rolled the transaction back because of a concurrent one. A retry may succeed."""
    CONNECTION_LOST = auto()
    """The connection broke, or none was available. It is unknown whether a COMMIT in progress succeeded."""
    UNAVAILABLE = auto()
    """The server cannot execute the statement now: a timeout, a standby, no memory. An immediate retry would fail."""
    DISK_FULL = auto()
    """The server's disk or quota is full."""
    SCHEMA_BEHIND = auto()
    """The migration of this version has not run. An immediate retry would fail."""


class SchemaBehind(exc.SQLAlchemyError):
    """The database's schema lacks a migration of this version."""


# A unique violation means that a concurrent transaction inserted the same key. The retry then finds that row.
_CONFLICTS = {errorcodes.LOCK_NOT_AVAILABLE, errorcodes.UNIQUE_VIOLATION}
_CONNECTION_LOST = {
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.CANNOT_CONNECT_NOW,
    errorcodes.TOO_MANY_CONNECTIONS,
}
_UNAVAILABLE = {
    errorcodes.READ_ONLY_SQL_TRANSACTION,
    errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    errorcodes.TRANSACTION_TIMEOUT,
}
_BY_CLASS = {
    errorcodes.CLASS_TRANSACTION_ROLLBACK: DatabaseError.CONFLICT,
    errorcodes.CLASS_CONNECTION_EXCEPTION: DatabaseError.CONNECTION_LOST,
    errorcodes.CLASS_INSUFFICIENT_RESOURCES: DatabaseError.UNAVAILABLE,
    errorcodes.CLASS_OPERATOR_INTERVENTION: DatabaseError.UNAVAILABLE,
    errorcodes.CLASS_SYSTEM_ERROR: DatabaseError.UNAVAILABLE,
}
# Postgres has no SQLSTATE for an exceeded disk quota.
_DISK_FULL_MESSAGES = ("No space left on device", "Disk quota exceeded")


def classify(error: BaseException) -> DatabaseError | None:
    """Return the kind of a server error; None for bugs, and for errors that do not come from Postgres.

    error: an exception from SQLAlchemy, or from psycopg2, as raised by COPY.
    """
    cause, state = _cause(error), sqlstate(error)
    if isinstance(error, SchemaBehind):
        return DatabaseError.SCHEMA_BEHIND
    if not isinstance(cause, psycopg2.Error):
        # The pool has no free connection.
        return DatabaseError.CONNECTION_LOST if isinstance(error, exc.TimeoutError) else None
    if state == errorcodes.DISK_FULL or any(message in str(cause) for message in _DISK_FULL_MESSAGES):
        return DatabaseError.DISK_FULL
    if state is None:
        return DatabaseError.CONNECTION_LOST if _is_connection_error(error, cause) else None
    if state in _CONFLICTS:
        return DatabaseError.CONFLICT
    if state in _CONNECTION_LOST:
        return DatabaseError.CONNECTION_LOST
    if state in _UNAVAILABLE:
        return DatabaseError.UNAVAILABLE
    return _BY_CLASS.get(state[:2])


def sqlstate(error: BaseException) -> str | None:
    """Return the server's error code; None if there is none, for example because the connection broke."""
    return getattr(_cause(error), "pgcode", None)


def describe(error: BaseException) -> str:
    """Return a public description of an error. The error's own text may contain SQL, data and addresses."""
    state = sqlstate(error)
    if isinstance(error, SchemaBehind):
        return str(error)
    if state is None:
        return "the connection to Postgres broke, or none was available"
    try:
        name = errorcodes.lookup(state).lower()
    except KeyError:  # The code is newer than this version of psycopg2.
        name = "an error"
    return f"Postgres reported {name} ({state})"


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, exc.DBAPIError) else error


def _is_connection_error(error: BaseException, cause: psycopg2.Error) -> bool:
    """Return whether an error without a code means that the connection broke, or that there was none."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    if type(cause) is psycopg2.DatabaseError:  # "no message from the libpq", in the middle of a response
        return True
    return isinstance(cause, psycopg2.OperationalError | psycopg2.InterfaceError)
