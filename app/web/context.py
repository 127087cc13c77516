"""What every view shares: the settings, and the database to read from and to write to."""

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
"""Seconds a part of the service has to show /health that it works."""


@dataclass(frozen=True)
class Context:
    settings: Settings
    engine: Engine
    reader: Engine
    """Each statement its own transaction: a read costs no BEGIN and no ROLLBACK. A pool of its own, or each use of a
    connection would set it to this and back."""
    frontier: Watermark
    exporter: Engine
    """Connections of their own, each for one snapshot: exports leave the pool to those who want an answer at once."""
    export_slots: Semaphore
    prober: Engine
    """A connection of its own for each /health: a pool that is busy is not a database that is down."""
    # Apart, so that a database that swallows questions does not make the broker look dead as well.
    database_probes: ThreadPoolExecutor
    broker_probes: ThreadPoolExecutor


def install(app: Flask, settings: Settings, connections: int) -> None:
    def pool(**options: Any) -> Engine:
        return make_engine(
            settings.database_url,
            "web",
            statement_timeout=settings.statement_timeout,
            # A frozen process must not keep a run's row from the workers.
            transaction_timeout=settings.statement_timeout,
            ping=False,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=5,
            # The session that was used last has its plans and pages at hand; one of each in turn is a tenth slower.
            pool_use_lifo=True,
            **options,
        )

    app.extensions[KEY] = Context(
        settings=settings,
        engine=pool(),
        reader=pool(isolation_level="AUTOCOMMIT"),
        frontier=Watermark(),
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
    """After a fork, in the child: two processes must not talk over one connection."""
    for engine in (context_of(app).engine, context_of(app).reader):
        engine.dispose(close=False)


def context_of(app: Flask) -> Context:
    found: Context = app.extensions[KEY]
    return found


def context() -> Context:
    return context_of(current_app)


def read_connection() -> Connection:
    """A connection for one view's queries; use it in a `with`."""
    return context().reader.connect()
