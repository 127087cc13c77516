"""One engine per process, with the timeouts that let no connection hold a row for longer than a lease."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url, text

MIN_POSTGRES = 17


class UnsuitablePostgres(Exception):
    """The server is too old: the load needs MERGE … RETURNING, the lease needs transaction_timeout."""


def database_url(url: str) -> URL:
    """The URL with our driver in it: SQLAlchemy reads a bare `postgresql://` as another one."""
    return make_url(url).set(drivername="postgresql+psycopg2")


def make_engine(
    url: str, role: str, *, statement_timeout: float = 0, transaction_timeout: float = 0, **options: Any
) -> Engine:
    """An engine whose sessions are named `role` in pg_stat_activity; timeouts are seconds, 0 for none."""
    session = {
        "timezone": "UTC",
        "statement_timeout": int(statement_timeout * 1000),
        "transaction_timeout": int(transaction_timeout * 1000),
        "idle_in_transaction_session_timeout": int(transaction_timeout * 1000),
        # A page that hangs on a peer's lock is better given up early, and tried again, than late.
        "lock_timeout": int(transaction_timeout * 1000 // 2),
    }
    arguments = {
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "application_name": f"kasparro-{role}",
        "connect_timeout": 5,
        # A host that vanished without a word is noticed in about 20 s, not after TCP's two hours.
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    return create_engine(database_url(url), connect_args=arguments, pool_pre_ping=True, **options)


def check_postgres(engine: Engine) -> None:
    """Raises UnsuitablePostgres if the server is older than Kasparro needs."""
    with engine.connect() as connection:
        version = connection.scalar(text("SELECT current_setting('server_version_num')::int")) // 10_000
    if version < MIN_POSTGRES:
        raise UnsuitablePostgres(
            f"Postgres {MIN_POSTGRES} or newer is needed; the server at DATABASE_URL is version {version}."
        )
