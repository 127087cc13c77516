"""Create the database engine of a worker, the control worker or beat. Each process has one engine."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.signals import worker_process_init
from sqlalchemy import Engine

from settings import get_settings
from store.engine import make_engine

WORKER = "worker"
"""The role in the application_name of database sessions."""


@cache
def worker_engine() -> Engine:
    """Return the engine of this process. TRANSACTION_TIMEOUT ends its transactions well before a lease expires."""
    settings = get_settings()
    return make_engine(
        settings.database_url, WORKER, transaction_timeout=settings.transaction_timeout, pool_size=2, max_overflow=0
    )


@worker_process_init.connect
def _discard_inherited_connections(**_: Any) -> None:
    # A forked process must neither use nor close its parent's connections.
    worker_engine().dispose(close=False)
