"""Hold the objects that all views share: settings, database engines, and limits on concurrent work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from threading import BoundedSemaphore, Semaphore

from flask import Flask, current_app
from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import NullPool

from app.web.watermark import Watermark
from settings import Settings
from store.engine import application_name, make_engine

KEY = "kasparro"
PROBE_TIMEOUT = 2.0
"""Seconds that `/health` waits for the database or the broker."""
IDLE_TIMEOUT = 60.0
"""Seconds after which Postgres closes an unused connection of the pool."""


@dataclass(frozen=True)
class Context:
    settings: Settings
    reader: Engine
    """Autocommit: a read needs no BEGIN and no ROLLBACK."""
    engine: Engine
    """Transactions, on connections of the same pool. Leaving and restoring autocommit costs a write two statements."""
    watermark: Watermark
    exporter: Engine
    """Read-only snapshots, on connections of the same pool. A thread uses one connection at a time, so the pool is
    never exhausted."""
    export_slots: Semaphore
    prober: Engine
    """One new connection for each `/health`, so that an exhausted pool does not look like a database that is down."""
    # Two executors, so that a database that never responds does not delay the check of the broker.
    database_probes: ThreadPoolExecutor
    broker_probes: ThreadPoolExecutor


def install(app: Flask, settings: Settings, connections: int) -> None:
    pool = make_engine(
        settings.database_url,
        "web",
        statement_timeout=settings.statement_timeout,
        # If this process freezes, its row locks must not block the workers.
        transaction_timeout=settings.statement_timeout,
        idle_timeout=IDLE_TIMEOUT,
        ping=False,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=5,
        # The most recently used session has plans and pages cached. Using the sessions in turn is 10 % slower.
        pool_use_lifo=True,
        isolation_level="AUTOCOMMIT",
    )
    app.extensions[KEY] = Context(
        settings=settings,
        reader=pool,
        engine=pool.execution_options(isolation_level="READ COMMITTED"),
        watermark=Watermark(),
        exporter=_exporter(pool, settings),
        export_slots=BoundedSemaphore(settings.exports_at_once),
        prober=make_engine(
            settings.database_url,
            "health",
            statement_timeout=PROBE_TIMEOUT,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
        ),
        database_probes=ThreadPoolExecutor(max_workers=2, thread_name_prefix="database-probe"),
        broker_probes=ThreadPoolExecutor(max_workers=2, thread_name_prefix="broker-probe"),
    )


def _exporter(pool: Engine, settings: Settings) -> Engine:
    """Return an engine for exports, which may take longer than other requests. Its connections come from the pool."""
    exporter = pool.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    timeout = int(settings.export_timeout * 1000)

    @event.listens_for(exporter, "begin")
    def _allow_more_time(connection: Connection) -> None:
        # Use a cursor of the driver, since SQLAlchemy may run the next statement in a server-side cursor. Postgres
        # applies a new timeout to an open transaction only after the old timeout was switched off.
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(f"""
                SET LOCAL transaction_timeout = 0;
                SET LOCAL transaction_timeout = {timeout};
                SET LOCAL idle_in_transaction_session_timeout = {timeout};
                SET LOCAL application_name = '{application_name("export")}'
            """)

    return exporter


def discard_connections(app: Flask) -> None:
    """Discard the pooled connections without closing them. Call this in a forked child: its parent owns them."""
    context_of(app).reader.dispose(close=False)


def context_of(app: Flask) -> Context:
    shared: Context = app.extensions[KEY]
    return shared


def context() -> Context:
    return context_of(current_app)


def read_connection() -> Connection:
    """Return an autocommit connection for the queries of one view, as a context manager."""
    return context().reader.connect()
