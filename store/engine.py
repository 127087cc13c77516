"""One engine per process, with the timeouts that let no connection hold a row for longer than a lease."""

from __future__ import annotations

import select
from typing import Any

from psycopg2.errorcodes import READ_ONLY_SQL_TRANSACTION
from sqlalchemy import URL, Engine, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.exc import DisconnectionError

from store.errors import sqlstate

MIN_POSTGRES = 17
VANISHED = 20.0
"""Seconds after which each side gives up the other, if that vanished without a word."""


class UnsuitablePostgres(Exception):
    """The server is too old: a lease needs its transaction_timeout."""


def database_url(url: str) -> URL:
    """The URL with our driver in it: SQLAlchemy reads a bare `postgresql://` as another one."""
    return make_url(url).set(drivername="postgresql+psycopg2")


def application_name(role: str) -> str:
    """What Postgres calls the sessions of a role in pg_stat_activity."""
    return f"kasparro-{role}"


def make_engine(
    url: str,
    role: str,
    *,
    statement_timeout: float = 0,
    transaction_timeout: float = 0,
    ping: bool = True,
    **options: Any,
) -> Engine:
    """An engine whose sessions are named for a role; timeouts are seconds, 0 for none.

    ping: ask the server whether it is there before each use of a connection. Without, only a look is taken at whether
    it hung up: no round trip, and it misses the server that vanished without a word.
    """
    session = {
        "timezone": "UTC",
        # A statement is prepared so that it is read once. One plan for every date and listing would not do.
        "plan_cache_mode": "force_custom_plan",
        # To call in helpers takes longer than most of our queries, and one that has all cores leaves none to others.
        "max_parallel_workers_per_gather": 0,
        "statement_timeout": int(statement_timeout * 1000),
        "transaction_timeout": int(transaction_timeout * 1000),
        "idle_in_transaction_session_timeout": int(transaction_timeout * 1000),
        # A page that hangs on a peer's lock is better given up early, while there is time to try it again, than late.
        "lock_timeout": int(transaction_timeout * 1000 // 3),
        # The server, too, is to notice a host that vanished. No timeout above ends a session that is sending to it:
        # that one would hold its locks until TCP gives up, after a quarter of an hour.
        "tcp_user_timeout": int(min(transaction_timeout or VANISHED, VANISHED) * 1000),
        "tcp_keepalives_idle": 10,
        "tcp_keepalives_interval": 3,
        "tcp_keepalives_count": 3,
    }
    arguments = {
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "application_name": application_name(role),
        "connect_timeout": 5,
        # A server that vanished is noticed within VANISHED seconds, not after TCP's two hours.
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": int(VANISHED * 1000),
    }
    engine = create_engine(database_url(url), connect_args=arguments, pool_pre_ping=ping, **options)
    event.listen(engine, "handle_error", _leave_a_standby)
    if not ping:
        event.listen(engine, "checkout", _look_whether_it_hung_up)
    return engine


def _look_whether_it_hung_up(connection: Any, *_: Any) -> None:
    """Of a connection at rest there is nothing to read, but what the server said as it ended it."""
    if connection.closed or select.select([connection], [], [], 0)[0]:
        raise DisconnectionError


def _leave_a_standby(context: ExceptionContext) -> None:
    """The server that a connection leads to is no longer the one that writes: the next must look for that one anew."""
    if sqlstate(context.original_exception) == READ_ONLY_SQL_TRANSACTION:
        context.is_disconnect = True


def check_postgres(engine: Engine) -> None:
    """Raises UnsuitablePostgres if the server is older than Kasparro needs."""
    with engine.connect() as connection:
        version = connection.scalar(text("SELECT current_setting('server_version_num')::int")) // 10_000
    if version < MIN_POSTGRES:
        raise UnsuitablePostgres(
            f"Postgres {MIN_POSTGRES} or newer is needed; the server at DATABASE_URL is version {version}."
        )
