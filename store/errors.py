"""What an error of Postgres asks of whoever met it: to try again, to wait, to wait for room; or it is our own mistake.

Told by its SQLSTATE and not by its class: a server that became a standby refuses to write with an InternalError.
"""

from __future__ import annotations

from enum import Enum, auto

import psycopg2
from psycopg2 import errorcodes
from sqlalchemy import exc


class DatabaseError(Enum):
    CONFLICT = auto()
    """Rolled back for another's sake: the same transaction, tried again, may pass."""
    LOST = auto()
    """The connection is gone, or none was to be had. Whether a COMMIT that was under way came to pass is not known."""
    UNFIT = auto()
    """The server cannot do it now: a timeout, a standby, no memory. To try at once again is no use."""
    FULL = auto()
    """No room is left on the server's disk."""


# The same key at the same time as another: to whoever tries again it is there.
_CONFLICTS = {errorcodes.LOCK_NOT_AVAILABLE, errorcodes.UNIQUE_VIOLATION}
_LOSSES = {
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.CANNOT_CONNECT_NOW,
    errorcodes.TOO_MANY_CONNECTIONS,
}
_UNFIT = {
    errorcodes.READ_ONLY_SQL_TRANSACTION,
    errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    errorcodes.TRANSACTION_TIMEOUT,
}
_BY_CLASS = {
    errorcodes.CLASS_TRANSACTION_ROLLBACK: DatabaseError.CONFLICT,
    errorcodes.CLASS_CONNECTION_EXCEPTION: DatabaseError.LOST,
    errorcodes.CLASS_INSUFFICIENT_RESOURCES: DatabaseError.UNFIT,
    errorcodes.CLASS_OPERATOR_INTERVENTION: DatabaseError.UNFIT,
    errorcodes.CLASS_SYSTEM_ERROR: DatabaseError.UNFIT,
}
# A quota has no SQLSTATE of its own.
_NO_ROOM = ("No space left on device", "Disk quota exceeded")


def classify(error: BaseException) -> DatabaseError | None:
    """The trouble that an error tells of; None where it is none of the server's: our mistake, or no error of Postgres.

    error: SQLAlchemy's, or psycopg2's own, which is what a COPY raises.
    """
    cause, state = _cause(error), sqlstate(error)
    if not isinstance(cause, psycopg2.Error):
        # The pool had no connection to give.
        return DatabaseError.LOST if isinstance(error, exc.TimeoutError) else None
    if state == errorcodes.DISK_FULL or any(words in str(cause) for words in _NO_ROOM):
        return DatabaseError.FULL
    if state is None:
        return DatabaseError.LOST if _is_without_server(error, cause) else None
    if state in _CONFLICTS:
        return DatabaseError.CONFLICT
    if state in _LOSSES:
        return DatabaseError.LOST
    if state in _UNFIT:
        return DatabaseError.UNFIT
    return _BY_CLASS.get(state[:2])


def sqlstate(error: BaseException) -> str | None:
    """The code that the server gave the error; None where it gave none, as when it is gone."""
    return getattr(_cause(error), "pgcode", None)


def describe(error: BaseException) -> str:
    """What happened, in words that may be shown to anyone: an error's own text can hold SQL, data, and addresses."""
    state = sqlstate(error)
    if state is None:
        return "the connection to Postgres broke, or none was to be had"
    try:
        name = errorcodes.lookup(state).lower()
    except KeyError:  # newer than psycopg2's list
        name = "an error"
    return f"Postgres reported {name} ({state})"


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, exc.DBAPIError) else error


def _is_without_server(error: BaseException, cause: psycopg2.Error) -> bool:
    """Whether an error that has no code is the client's own word for a broken connection, or for none."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    if type(cause) is psycopg2.DatabaseError:  # "no message from the libpq", in the middle of an answer
        return True
    return isinstance(cause, psycopg2.OperationalError | psycopg2.InterfaceError)
