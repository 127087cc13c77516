"""Hold the objects that all views share: settings, database engines, and limits on concurrent work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore, Semaphore
from typing import Any

from flask import Flask, current_app
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import NullPool

from app.web.watermark import Watermark
from settings import Settings
from store.engine import make_engine

KEY = "kasparro"
PROBE_TIMEOUT = 2.0
"""Seconds that `/health` waits for the database or the broker."""


@dataclass(frozen=True)
class Context:
    settings: Settings
    engine: Engine
    reader: Engine
    """Autocommit: a read needs no BEGIN and no ROLLBACK. The pool is separate, since changing the isolation level of a
    shared connection would cost two statements for each use."""
    watermark: Watermark
    exporter: Engine
    """One new connection for each export and its snapshot, so that exports never exhaust the pool."""
    export_slots: Semaphore
    prober: Engine
    """One new connection for each `/health`, so that an exhausted pool does not look like a database that is down."""
    # Two executors, so that a database that never responds does not delay the check of the broker.
    database_probes: ThreadPoolExecutor
    broker_probes: ThreadPoolExecutor


def install(app: Flask, settings: Settings, connections: int) -> None:
    def pool(**options: Any) -> Engine:
        return make_engine(
            settings.database_url,
            "web",
            statement_timeout=settings.statement_timeout,
            # If this process freezes, its row locks must not block the workers.
            transaction_timeout=settings.statement_timeout,
            ping=False,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=5,
            # The most recently used session has plans and pages cached. Using the sessions in turn is 10 % slower.
            pool_use_lifo=True,
            **options,
        )

    app.extensions[KEY] = Context(
        settings=settings,
        engine=pool(),
        reader=pool(isolation_level="AUTOCOMMIT"),
        watermark=Watermark(),
        exporter=make_engine(
            settings.database_url,
            "export",
            statement_timeout=settings.statement_timeout,
            transaction_timeout=settings.export_timeout,
            poolclass=NullPool,
            isolation_level="REPEATABLE READ",
        ).execution_options(postgresql_readonly=True),
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


def discard_connections(app: Flask) -> None:
    """Discard the pooled connections without closing them. Call this in a forked child: the parent owns them."""
    for engine in (context_of(app).engine, context_of(app).reader):
        engine.dispose(close=False)


def context_of(app: Flask) -> Context:
    shared: Context = app.extensions[KEY]
    return shared


def context() -> Context:
    return context_of(current_app)


def read_connection() -> Connection:
    """Return an autocommit connection for the queries of one view, as a context manager."""
    return context().reader.connect()
