"""Every few seconds: settle runs whose worker vanished, publish runs whose message did. Safe to run twice at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, RowMapping, select, text

from settings import Settings
from store.engine import application_name
from store.errors import describe
from store.tables import CheckpointRow
from tasks.runs.claims import Hold, end, fail
from tasks.runs.requests import publish
from tasks.runtime.broker import heartbeat_timeout, ingest_queue_is_empty
from tasks.runtime.database import WORKER
from tasks.runtime.retry import DATABASE_ERRORS

log = structlog.get_logger()

MOST_AT_ONCE = 500
POISONED_PAUSE = timedelta(days=1)


def reconcile(engine: Engine, settings: Settings) -> bool:
    """After it, no run is `running` without a worker, and every run that is due has been published.

    False where the database kept a step from being done; the others are done all the same.
    """
    steps = (_end_overdue_sessions, _settle_abandoned, _say_whether_a_worker_is_missing, _publish_due)
    done = [_is_done(step, engine, settings) for step in steps]
    return all(done)


def _is_done(step: Callable[[Engine, Settings], None], engine: Engine, settings: Settings) -> bool:
    try:
        step(engine, settings)
    except DATABASE_ERRORS as error:
        log.warning("sweep_failed", step=step.__name__.strip("_"), reason=describe(error))
        return False
    return True


def _end_overdue_sessions(engine: Engine, settings: Settings) -> None:
    """Workers' sessions in a transaction that Postgres should have ended, and that hold rows others are waiting for.

    It does not heed transaction_timeout while a COPY waits for more rows: a worker may be frozen in the middle of one.
    """
    with engine.begin() as connection:
        ended = connection.execute(
            text("""
                SELECT pid, pg_terminate_backend(pid, 1000) AS ended FROM pg_stat_activity
                 WHERE application_name = :worker AND datname = current_database() AND usename = current_user
                   AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - :longest
            """),
            {"worker": application_name(WORKER), "longest": timedelta(seconds=2 * settings.transaction_timeout)},
        )
        for session in ended:
            log.warning(
                "session_terminated", pid=session.pid, at_once=session.ended, reason="it outlived TRANSACTION_TIMEOUT"
            )


def _settle_abandoned(engine: Engine, settings: Settings) -> None:
    """Runs that are `running` without a live lease, and have not been heard of for as long as a lease lasts."""
    with engine.begin() as connection:
        abandoned = connection.execute(
            # A row that is locked is a page being committed, or another reconciler's.
            text("""
                SELECT id AS run, claims AS number, source, kind, attempts, cancel_requested
                  FROM runs
                 WHERE status = 'running'
                   AND claimed_at NOT BETWEEN clock_timestamp() - :lease AND clock_timestamp() + :lease
                   AND NOT EXISTS (SELECT FROM checkpoints WHERE lease_run = runs.id
                                      AND lease_expires BETWEEN clock_timestamp() AND clock_timestamp() + :lease)
                   FOR NO KEY UPDATE SKIP LOCKED
            """),
            {"lease": timedelta(seconds=settings.lease)},
        )
        for run in abandoned.mappings().all():
            if _is_left_alone(connection, run):
                _settle(connection, settings, run)


def _is_left_alone(connection: Connection, run: RowMapping) -> bool:
    """Whether nobody is committing a page of it; nobody can until this transaction's end."""
    alone: bool = connection.execute(
        text("""
            SELECT count(*) = (SELECT count(*) FROM checkpoints WHERE lease_run = :run)
              FROM (SELECT FROM checkpoints WHERE lease_run = :run FOR NO KEY UPDATE SKIP LOCKED) AS free
        """),
        {"run": run["run"]},
    ).scalar_one()
    return alone


def _settle(connection: Connection, settings: Settings, run: RowMapping) -> None:
    hold = Hold(run["run"], run["number"], run["source"], run["kind"])
    if run["cancel_requested"]:
        end(connection, hold, "cancelled")
        log.info("run_ended", run=str(hold.run), source=hold.source, status="cancelled")
    elif run["attempts"] >= settings.max_attempts:
        detail = _where_it_died(connection, run)
        # The source is paused, or the run of each slot would kill its workers on the same page.
        fail(connection, hold, "poisoned", detail, POISONED_PAUSE)
        log.error("run_ended", run=str(hold.run), source=hold.source, status="failed", code="poisoned", reason=detail)
    else:
        connection.execute(
            text("UPDATE runs SET status = 'queued', published_at = NULL, publish_count = 0 WHERE id = :run"),
            {"run": hold.run},
        )
        log.warning("run_requeued", run=str(hold.run), source=hold.source, attempts=run["attempts"])


def _where_it_died(connection: Connection, run: RowMapping) -> str:
    leased = select(CheckpointRow.partition, CheckpointRow.cursor).where(CheckpointRow.lease_run == run["run"])
    places = [
        f"the page of partition {partition!r} after cursor {cursor}" for partition, cursor in connection.execute(leased)
    ]
    return f"{run['attempts']} starts in a row ended without a committed page; at " + (
        ", ".join(places) or "the start, before any page"
    )


def _say_whether_a_worker_is_missing(engine: Engine, settings: Settings) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
                WITH seen AS (
                    SELECT greatest((SELECT beaten_at FROM heartbeats WHERE part = 'worker'),
                                    (SELECT max(committed_at) FROM pages)) AS at),
                     word AS (
                    SELECT CASE WHEN at IS NULL THEN 'no worker has shown itself yet'
                                WHEN at < clock_timestamp() - :late
                                THEN to_char(at, '"no worker has been seen since "YYYY-MM-DD"T"HH24:MI:SS"Z"')
                           END AS reason FROM seen)
                UPDATE runs SET waiting_reason = word.reason FROM word
                 WHERE waiting_reason IS DISTINCT FROM word.reason
                   AND (status = 'queued'
                        OR status = 'waiting' AND next_attempt_at <= clock_timestamp() AND word.reason IS NOT NULL)
            """),
            {"late": timedelta(seconds=heartbeat_timeout(settings))},
        )


def _publish_due(engine: Engine, settings: Settings) -> None:
    """While messages wait in the queue, the gap doubles with each publication: a backlog is no loss.

    Where none waits, what is due and was sent a while ago has been lost, however often that happened.
    """
    with engine.connect() as connection:
        due = connection.scalars(
            text("""
                SELECT id FROM runs
                 WHERE (status = 'queued' OR status = 'waiting' AND next_attempt_at <= clock_timestamp())
                   AND (published_at IS NULL OR published_at NOT BETWEEN clock_timestamp() - :gap
                        * CASE WHEN :empty THEN 1 ELSE 2 ^ least(publish_count - 1, 8) END AND clock_timestamp())
                 ORDER BY requested_at LIMIT :most
            """),
            _publishing(settings),
        ).all()
    publish(engine, due)


def _publishing(settings: Settings) -> dict[str, Any]:
    return {
        "gap": timedelta(seconds=settings.publish_gap),
        "empty": ingest_queue_is_empty(),
        "most": MOST_AT_ONCE,
    }
