"""Create the SQLAlchemy engine of a process, with timeouts that end every session before its lease expires."""

from __future__ import annotations

import select
from typing import Any

from psycopg2.errorcodes import READ_ONLY_SQL_TRANSACTION
from sqlalchemy import URL, Engine, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.exc import DisconnectionError

from store.errors import sqlstate

MIN_POSTGRES = 17
PEER_TIMEOUT = 20.0
"""Seconds after which each side closes a connection if the other side no longer responds."""


class UnsuitablePostgres(Exception):
    """The encoding is not UTF8, or the server is too old: leases rely on transaction_timeout of Postgres 17."""


def database_url(url: str) -> URL:
    """Return the URL with psycopg2 as its driver. SQLAlchemy may choose another driver for `postgresql://`."""
    return make_url(url).set(drivername="postgresql+psycopg2")


def application_name(role: str) -> str:
    """Return the name of a role's sessions in pg_stat_activity."""
    return f"kasparro-{role}"


def make_engine(
    url: str,
    role: str,
    *,
    statement_timeout: float = 0,
    transaction_timeout: float = 0,
    idle_timeout: float = 0,
    ping: bool = True,
    **options: Any,
) -> Engine:
    """Return an engine whose sessions are named after a role.

    statement_timeout, transaction_timeout, idle_timeout: seconds; 0 means none. Postgres closes a connection that is
    unused for longer than idle_timeout. The pool replaces it on its next use.
    ping: send a ping before each use of a connection. Without a ping, only check whether the server closed the
    connection. That check costs no round trip, but it does not detect a server that vanished.
    """
    session = {
        "timezone": "UTC",
        # Prepared statements save parsing. A generic plan would be slow for some dates and listings.
        "plan_cache_mode": "force_custom_plan",
        # Starting parallel workers takes longer than most of our queries, and they would use all cores.
        "max_parallel_workers_per_gather": 0,
        "statement_timeout": int(statement_timeout * 1000),
        "transaction_timeout": int(transaction_timeout * 1000),
        "idle_in_transaction_session_timeout": int(transaction_timeout * 1000),
        "idle_session_timeout": int(idle_timeout * 1000),
        # Stop waiting for a lock early enough to retry the page.
        "lock_timeout": int(transaction_timeout * 1000 // 3),
        # The server must detect a client host that vanished. The timeouts above do not end a session that is sending.
        # Such a session would keep its locks until TCP gives up after 15 minutes.
        "tcp_user_timeout": int(min(transaction_timeout or PEER_TIMEOUT, PEER_TIMEOUT) * 1000),
        "tcp_keepalives_idle": 10,
        "tcp_keepalives_interval": 3,
        "tcp_keepalives_count": 3,
    }
    arguments = {
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "application_name": application_name(role),
        "connect_timeout": 5,
        # Detect, within PEER_TIMEOUT seconds, that a server vanished. TCP's default is two hours.
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": int(PEER_TIMEOUT * 1000),
    }
    engine = create_engine(database_url(url), connect_args=arguments, pool_pre_ping=ping, **options)
    event.listen(engine, "handle_error", _discard_connections_to_standby)
    event.listen(engine, "connect", _commit_synchronously)
    if not ping:
        event.listen(engine, "checkout", _check_not_closed)
    return engine


def _commit_synchronously(connection: Any, _: Any) -> None:
    """Let each COMMIT wait until it is durable, even if the server, the database or the role switched this off.

    Workers acknowledge messages and forget pages after a COMMIT. A stronger setting, such as remote_apply, stays.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()


def _check_not_closed(connection: Any, *_: Any) -> None:
    """Raise DisconnectionError if the server closed an idle connection.

    An idle connection has data to read only if the server ended it.
    """
    if connection.closed or select.select([connection], [], [], 0)[0]:
        raise DisconnectionError


def _discard_connections_to_standby(context: ExceptionContext) -> None:
    """Discard all pooled connections when the server became a standby, so that new ones reach the primary."""
    if sqlstate(context.original_exception) == READ_ONLY_SQL_TRANSACTION:
        context.is_disconnect = True


def check_postgres(engine: Engine) -> None:
    """Raise UnsuitablePostgres if the server is older than MIN_POSTGRES, or the database cannot store every text.

    The locale of the database does not matter.
    """
    with engine.connect() as connection:
        version = connection.scalar(text("SELECT current_setting('server_version_num')::int")) // 10_000
        encoding = connection.scalar(text("SELECT current_setting('server_encoding')"))
    if version < MIN_POSTGRES:
        raise UnsuitablePostgres(
            f"Kasparro needs Postgres {MIN_POSTGRES} or newer. The server at DATABASE_URL is version {version}. "
            "Upgrade that server, or set DATABASE_URL to a newer server."
        )
    if encoding != "UTF8":
        raise UnsuitablePostgres(
            f"Kasparro needs a database with the encoding UTF8. The database at DATABASE_URL has {encoding}. "
            "Create another database with: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
        )
