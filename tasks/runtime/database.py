"""The engine of a worker, of beat, or of whoever asks for a run; one for each process."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.signals import worker_process_init
from sqlalchemy import Engine

from settings import get_settings
from store.engine import make_engine

WORKER = "worker"
"""The role of these sessions, by which Postgres names them."""


@cache
def worker_engine() -> Engine:
    """Sessions that can hold a row for less than a lease, whatever becomes of their process."""
    settings = get_settings()
    return make_engine(
        settings.database_url, WORKER, transaction_timeout=settings.transaction_timeout, pool_size=2, max_overflow=0
    )


@worker_process_init.connect
def _forget_the_parents_connections(**_: Any) -> None:
    worker_engine().dispose(close=False)
