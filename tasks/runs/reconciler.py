"""Requeue or end runs whose worker vanished. Publish runs whose message was lost. Two reconcilers may run at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy import Connection, Engine, RowMapping, select, text

from settings import Settings
from store.engine import application_name
from store.errors import describe
from store.schema import explain
from store.tables import CheckpointRow
from tasks.runs.claims import Hold, end_run, fail_run
from tasks.runs.publishing import publish
from tasks.runtime.broker import heartbeat_timeout, ingest_queue_is_empty
from tasks.runtime.database import WORKER
from tasks.runtime.outdated_schema import schema_log
from tasks.runtime.retry import DATABASE_ERRORS
from tasks.runtime.service_clock import check_clock
from tasks.set_backs.history import watch_history

log = structlog.get_logger()

MAX_RUNS_PER_SWEEP = 500
"""Maximum number of runs that one sweep publishes."""

POISONED_PAUSE = timedelta(days=1)


def reconcile(engine: Engine, settings: Settings) -> bool:
    """Requeue, fail or cancel every `running` run that has no worker, and publish every run that is due.

    Return False if a database error prevented a step. The other steps run in any case.
    """
    steps = (
        _correct_clock,
        _watch_history,
        _terminate_overdue_sessions,
        _settle_abandoned_runs,
        _explain_missing_workers,
        _publish_due_runs,
    )
    results = [_try_step(step, engine, settings) for step in steps]
    return all(results)


def _try_step(step: Callable[[Engine, Settings], None], engine: Engine, settings: Settings) -> bool:
    try:
        step(engine, settings)
    except DATABASE_ERRORS as raised:
        error = explain(engine, raised)
        if not schema_log.error(error):
            log.warning("sweep_failed", step=step.__name__.strip("_"), reason=describe(error))
        return False
    return True


def _correct_clock(engine: Engine, settings: Settings) -> None:
    """Correct the service's clock if the database's clock was set, even while no worker or beat is running."""
    check_clock(engine)


def _watch_history(engine: Engine, _: Settings) -> None:
    watch_history(engine)


def _terminate_overdue_sessions(engine: Engine, settings: Settings) -> None:
    """Terminate workers' sessions whose transaction takes more than twice TRANSACTION_TIMEOUT.

    They block other sessions. Postgres does not apply transaction_timeout while a COPY waits for rows. A
    worker may freeze during a COPY.
    """
    with engine.begin() as connection:
        sessions = connection.execute(
            text("""
                SELECT pid, pg_terminate_backend(pid, 1000) AS ended FROM pg_stat_activity
                 WHERE application_name = :worker AND datname = current_database() AND usename = current_user
                   AND pid <> pg_backend_pid()
                   -- A start in the future is older than the correction of the clock that went back.
                   AND CASE WHEN xact_start > clock_timestamp() THEN (SELECT since FROM clock) ELSE xact_start END
                       < clock_timestamp() - :max_duration
            """),
            {"worker": application_name(WORKER), "max_duration": timedelta(seconds=2 * settings.transaction_timeout)},
        )
        for session in sessions:
            log.warning(
                "session_terminated",
                pid=session.pid,
                at_once=session.ended,
                reason="its transaction took more than twice TRANSACTION_TIMEOUT",
            )


def _settle_abandoned_runs(engine: Engine, settings: Settings) -> None:
    """Requeue, fail or cancel `running` runs without a valid lease, and with no sign of their worker for LEASE."""
    with engine.begin() as connection:
        rows = connection.execute(
            # Skip locked rows: a page of the run is being committed, or another reconciler handles the run.
            text("""
                SELECT id AS run, claims AS number, claim_token AS token, source, kind, attempts, cancel_requested
                  FROM runs
                 WHERE status = 'running'
                   AND claimed_at NOT BETWEEN service_time() - :lease AND service_time() + :lease
                   AND NOT EXISTS (SELECT FROM checkpoints WHERE lease_run = runs.id
                                      AND lease_expires BETWEEN service_time() AND service_time() + :lease)
                   FOR NO KEY UPDATE SKIP LOCKED
            """),
            {"lease": timedelta(seconds=settings.lease)},
        )
        for run in rows.mappings().all():
            if _lock_checkpoints(connection, run):
                _settle(connection, settings, run)


def _lock_checkpoints(connection: Connection, run: RowMapping) -> bool:
    """Lock the run's checkpoints, so that no page can be committed. Return False if a page is being committed."""
    all_locked: bool = connection.execute(
        text("""
            SELECT count(*) = (SELECT count(*) FROM checkpoints WHERE lease_run = :run)
              FROM (SELECT FROM checkpoints WHERE lease_run = :run FOR NO KEY UPDATE SKIP LOCKED) AS locked
        """),
        {"run": run["run"]},
    ).scalar_one()
    return all_locked


def _settle(connection: Connection, settings: Settings, run: RowMapping) -> None:
    """Cancel the run if that was requested, fail it after MAX_ATTEMPTS starts, or requeue it."""
    hold = Hold(run["run"], run["number"], run["token"], run["source"], run["kind"])
    if run["cancel_requested"]:
        end_run(connection, hold, "cancelled")
        log.info("run_ended", run=str(hold.run), source=hold.source, status="cancelled")
    elif run["attempts"] >= settings.max_attempts:
        detail = _describe_poisoned_run(connection, run)
        # Pause the source. Otherwise each slot's run would kill its workers at the same page.
        fail_run(connection, hold, "poisoned", detail, POISONED_PAUSE)
        log.error("run_ended", run=str(hold.run), source=hold.source, status="failed", code="poisoned", reason=detail)
    else:
        connection.execute(
            text("UPDATE runs SET status = 'queued', published_at = NULL, publish_count = 0 WHERE id = :run"),
            {"run": hold.run},
        )
        log.warning("run_requeued", run=str(hold.run), source=hold.source, attempts=run["attempts"])


def _describe_poisoned_run(connection: Connection, run: RowMapping) -> str:
    leased = select(CheckpointRow.partition, CheckpointRow.cursor).where(CheckpointRow.lease_run == run["run"])
    pages = [
        f"at the page of partition {partition!r} after cursor {cursor}"
        for partition, cursor in connection.execute(leased)
    ]
    position = " and ".join(pages) or "before the first page"
    return f"{run['attempts']} starts in a row ended without a committed page; the last one stopped {position}"


def _explain_missing_workers(engine: Engine, settings: Settings) -> None:
    """Set the `waiting_reason` of each due run if no worker is alive. Clear it otherwise."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                WITH last_sign AS (
                    SELECT greatest((SELECT beaten_at FROM heartbeats WHERE part = 'worker'),
                                    (SELECT max(committed_at) FROM pages)) AS at),
                     explanation AS (
                    SELECT CASE WHEN at IS NULL THEN 'no worker heartbeat received yet'
                                WHEN at < service_time() - :timeout
                                THEN to_char(at, '"no worker heartbeat since "YYYY-MM-DD"T"HH24:MI:SS"Z"')
                           END AS reason FROM last_sign)
                UPDATE runs SET waiting_reason = explanation.reason FROM explanation
                 WHERE waiting_reason IS DISTINCT FROM explanation.reason
                   AND (status = 'queued' OR status = 'waiting' AND next_attempt_at <= service_time()
                                             AND explanation.reason IS NOT NULL)
            """),
            {"timeout": timedelta(seconds=heartbeat_timeout(settings))},
        )


def _publish_due_runs(engine: Engine, settings: Settings) -> None:
    """Publish the due runs that have no message, or whose last message is older than PUBLISH_GAP.

    While the queue has messages, the gap doubles with each publication, since the run's message may still be in the
    queue. If the queue is empty, the message was lost, and the gap does not grow.
    """
    with engine.connect() as connection:
        runs = connection.scalars(
            text("""
                SELECT id FROM runs
                 WHERE (status = 'queued' OR status = 'waiting' AND next_attempt_at <= service_time())
                   AND (published_at IS NULL OR published_at NOT BETWEEN service_time() - :gap
                        * CASE WHEN :empty THEN 1 ELSE 2 ^ least(publish_count - 1, 8) END AND service_time())
                   AND NOT EXISTS (SELECT FROM runs AS earlier WHERE earlier.id = runs.after_run
                                      AND earlier.status IN ('queued', 'running', 'waiting'))
                 ORDER BY requested_at LIMIT :max_runs
            """),
            {
                "gap": timedelta(seconds=settings.publish_gap),
                "empty": ingest_queue_is_empty(),
                "max_runs": MAX_RUNS_PER_SWEEP,
            },
        ).all()
    publish(engine, runs)
