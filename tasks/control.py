"""Control tasks, on a queue and a worker of their own: long slices must never keep them from running."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, text

from settings import get_settings
from tasks.celery import celery
from tasks.database import worker_engine
from tasks.reconciler import reconcile

CANARY_EXPIRES = 60


@celery.task(name="kasparro.reconcile", soft_time_limit=60, time_limit=90)
def reconcile_runs(**_: Any) -> None:
    """Make up for messages and workers that vanished; then send a canary down the ingest queue."""
    beat_heart(worker_engine(), "control")
    reconcile(worker_engine(), get_settings())
    celery.send_task("kasparro.canary", queue="ingest", expires=CANARY_EXPIRES, retry=False)


@celery.task(name="kasparro.canary", soft_time_limit=10, time_limit=20)
def canary(**_: Any) -> None:
    """Prove that an ingest worker consumes: one that only answers a ping may have stopped doing so."""
    beat_heart(worker_engine(), "worker")


def beat_heart(engine: Engine, part: str) -> None:
    """Note that a part of the service has just worked."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO heartbeats (part, beaten_at) VALUES (:part, clock_timestamp())
                ON CONFLICT (part) DO UPDATE SET beaten_at = excluded.beaten_at
            """),
            {"part": part},
        )
