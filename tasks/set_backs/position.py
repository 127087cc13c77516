"""Read the position of the database: its server, its timeline, and the end of its write-ahead log."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import structlog
from psycopg2 import errorcodes
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from store.errors import describe, sqlstate

log = structlog.get_logger()

_FORBIDDEN = (errorcodes.INSUFFICIENT_PRIVILEGE, errorcodes.UNDEFINED_FUNCTION, errorcodes.FEATURE_NOT_SUPPORTED)

# The first eight digits of a WAL file's name are its timeline. After a promotion, pg_control_checkpoint() returns the
# previous timeline until the next checkpoint.
_TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"


class Position(NamedTuple):
    """The position of the database. A member is None if the server does not let this role read it.

    database: the object id of the database within its server.
    """

    database: int
    system_identifier: str | None
    timeline: int | None
    lsn: str | None


def read_position(connection: Connection) -> Position:
    """Return the position of the database."""
    database: int = connection.execute(
        text("SELECT oid::bigint FROM pg_database WHERE datname = current_database()")
    ).scalar_one()
    return Position(
        database,
        _read(connection, "system_identifier::text FROM pg_control_system()"),
        _read(connection, _TIMELINE),
        _read(connection, "pg_current_wal_flush_lsn()::text"),
    )


def _read(connection: Connection, expression: str) -> Any:
    try:
        with connection.begin_nested():
            return connection.scalar(text(f"SELECT {expression}"))
    except DBAPIError as error:
        if sqlstate(error) not in _FORBIDDEN:
            raise
        _warn_once(expression, describe(error))
        return None


@cache
def _warn_once(expression: str, reason: str) -> None:
    log.warning("timeline_unwatched", expression=expression, reason=reason)
