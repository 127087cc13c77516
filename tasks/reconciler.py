"""Every few seconds: put back runs whose worker vanished, publish runs whose message did. Safe to run twice at once."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import Engine, text

from settings import Settings
from tasks.runs import publish

log = structlog.get_logger()

MOST_AT_ONCE = 500


def reconcile(engine: Engine, settings: Settings) -> None:
    """After it, every run that is due has been published, or was too lately to think its message lost."""
    _put_back_abandoned(engine, settings)
    _publish_due(engine, settings)


def _put_back_abandoned(engine: Engine, settings: Settings) -> None:
    """Runs that are `running` without a live lease, and have not been heard of for as long as a lease lasts."""
    with engine.begin() as connection:
        abandoned = connection.scalars(
            text("""
                UPDATE runs SET published_at = NULL, publish_count = 0,
                       status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,
                       finished_at = CASE WHEN cancel_requested THEN clock_timestamp() END
                 WHERE status = 'running' AND claimed_at < clock_timestamp() - :lease
                   AND NOT EXISTS (SELECT FROM checkpoints
                                    WHERE lease_run = runs.id AND lease_expires > clock_timestamp())
                RETURNING id
            """),
            {"lease": timedelta(seconds=settings.lease)},
        ).all()
    for run in abandoned:
        log.warning("run_put_back", run=str(run), reason="its lease ran out")


def _publish_due(engine: Engine, settings: Settings) -> None:
    """The gap doubles with each publication: a backlog is no loss, and must not be fed."""
    with engine.connect() as connection:
        due = connection.scalars(
            text("""
                SELECT id FROM runs
                 WHERE (status = 'queued' OR status = 'waiting' AND next_attempt_at <= clock_timestamp())
                   AND (published_at IS NULL
                        OR published_at < clock_timestamp() - :gap * 2 ^ least(publish_count - 1, 8))
                 ORDER BY requested_at LIMIT :most
            """),
            {"gap": timedelta(seconds=settings.publish_gap), "most": MOST_AT_ONCE},
        ).all()
    publish(engine, due)
