"""Publish runs: send their messages to the workers. The reconciler sends messages that cannot be sent now."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import structlog
from kombu.exceptions import OperationalError as BrokerUnreachable
from sqlalchemy import Engine, select, text

from store.tables import RunRow
from tasks.celery import celery
from tasks.runs.claims import Hold

log = structlog.get_logger()


def publish(engine: Engine, runs: Iterable[uuid.UUID]) -> None:
    """Send the message of each run, oldest request first. Stop at the first Redis error, without raising it."""
    with engine.connect() as connection:
        query = select(RunRow.id, RunRow.source).where(RunRow.id.in_(runs)).order_by(RunRow.requested_at)
        rows = connection.execute(query).all()
    for run, source in rows:
        try:
            celery.send_task(
                "kasparro.ingest",
                args=[str(run)],
                task_id=str(run),
                shadow=f"ingest {source}",  # the name that Flower shows
                queue="ingest",
                retry=False,
            )
        except (BrokerUnreachable, OSError) as error:
            # Redis is down, hangs, or refuses to write. The other messages would fail as well.
            log.warning("publish_failed", run=str(run), reason=f"{type(error).__name__}: {error}")
            return
        with engine.begin() as connection:
            connection.execute(
                text("""
                    UPDATE runs SET published_at = service_time(), publish_count = publish_count + 1
                     WHERE id = :run AND status IN ('queued', 'waiting')
                """),
                {"run": run},
            )


def call_assistants(hold: Hold, count: int) -> None:
    """Send a message for each of `count` assistants: other workers that ingest partitions of a run.

    Raise nothing, because a run does not need assistants. If Redis is down, the run only takes longer.
    """
    for _ in range(count):
        try:
            celery.send_task(
                "kasparro.assist",
                args=[str(hold.run), hold.number],
                shadow=f"assist {hold.source}",
                queue="ingest",
                retry=False,
            )
        except (BrokerUnreachable, OSError) as error:
            log.warning("publish_failed", reason=f"{type(error).__name__}: {error}")
            return
