"""Process one slice of a run: claim the run, ingest pages, and move the run to its next state."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Any

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Reject as HandBack
from celery.signals import worker_ready
from psycopg2.errorcodes import LOCK_NOT_AVAILABLE
from sqlalchemy import Engine

from settings import Settings, get_settings
from sources.contract import LIFTED_BY_SETTINGS, TerminalError, TransientError
from sources.faults import describe_error
from sources.http.configuration import configuration_fingerprint, configuration_settings
from sources.registry import BROKEN, SOURCES
from store.errors import DatabaseError, classify, describe, sqlstate
from store.schema import explain
from tasks.archive.seen_quotes import is_retracting
from tasks.celery import celery
from tasks.pipeline.slice import Slice, SliceEnded
from tasks.pipeline.source_errors import SOURCE_ERROR, describe_source_error
from tasks.retraction.retract import retract_missing
from tasks.runs.claims import (
    DISK_FULL,
    Claim,
    ClaimLost,
    Configuration,
    claim_run,
    complete_run,
    count_waits,
    end_run,
    extend_pause,
    fail_run,
    is_stored,
    postpone_run,
    requeue_run,
)
from tasks.runs.leases import Cancelled, LeaseHeld, LeaseLost
from tasks.runs.partitions import append_failures
from tasks.runs.pausing import lift_outdated_pause
from tasks.runs.publishing import publish
from tasks.runtime.database import worker_engine
from tasks.runtime.fault_points import reach
from tasks.runtime.logs import hide_secrets
from tasks.runtime.outdated_schema import schema_log
from tasks.runtime.retry import DATABASE_ERRORS, retry_transaction
from tasks.runtime.shutdown import finish_page_on_sigterm, is_stopping

log = structlog.get_logger()

MAX_FAILURE_WAIT = 900.0
"""Maximum seconds between two attempts of a run whose upstream fails. The wait doubles each time, up to this."""

RETRY_INTERVAL = 2.0
"""Seconds between two deliveries of a message while the database does not respond."""

PAUSED_CHECK_INTERVAL = 86_400.0
"""Seconds between two attempts of a run whose source is paused indefinitely."""


@celery.task(
    name="kasparro.ingest",
    soft_time_limit=get_settings().task_soft_limit,
    time_limit=get_settings().task_hard_limit,
)
def ingest(run: str = "", *_: Any, **__: Any) -> None:
    """Process one slice of a run. Ignore further arguments, since a newer version may have sent the message."""
    try:
        run_id = uuid.UUID(run)
    except (ValueError, TypeError, AttributeError):
        log.error("message_invalid", run=repr(run)[:100], expected="the id of a run")
        return
    engine, settings = worker_engine(), get_settings()
    if is_stopping():
        raise HandBack(requeue=True)  # another worker processes it
    try:
        claim = claim_run(engine, run_id)
    except DATABASE_ERRORS as raised:
        error = explain(engine, raised)
        if classify(error) is None:
            raise
        if not schema_log.error(error):
            log.warning("message_requeued", run=run, reason=describe(error))
        time.sleep(RETRY_INTERVAL)
        # Another host may be able to reach the database.
        raise HandBack(requeue=True) from None
    if claim is None:
        if not _log_if_lost(engine, run_id):
            log.info("run_skipped", run=run)
        return
    context = {"run": run, "source": claim.source, "request_id": claim.request_id, "traceparent": claim.traceparent}
    with structlog.contextvars.bound_contextvars(**{name: value for name, value in context.items() if value}):
        log.info("slice_started", slice=claim.number, attempt=claim.attempts)
        try:
            with finish_page_on_sigterm():
                work_on(engine, settings, claim)
        except (ClaimLost, LeaseLost) as lost:
            log.warning("slice_fenced", reason=str(lost))
            _log_if_lost(engine, run_id)
        except DATABASE_ERRORS as raised:
            error = explain(engine, raised)
            if classify(error) is None:
                raise
            # The lease expires, and the reconciler requeues the run.
            log.warning("slice_abandoned", reason=describe(error))
    reach("before_acknowledgement")


@worker_ready.connect
def _lift_outdated_pauses(sender: Any, **_: Any) -> None:
    """Lift the pauses of corrected configurations. Only the workers that read sources have the keys."""
    if "ingest" not in sender.app.amqp.queues.consume_from:
        return
    engine = worker_engine()
    try:
        for source in SOURCES.values():
            lift_outdated_pause(engine, source)
    except DATABASE_ERRORS as raised:
        error = explain(engine, raised)
        if not schema_log.error(error):
            log.warning("pause_check_failed", reason=describe(error))
    finally:
        engine.dispose()


def _log_if_lost(engine: Engine, run: uuid.UUID) -> bool:
    """Log an error if the database no longer has the run of a message. Return whether it was logged."""
    try:
        if is_stored(engine, run):
            return False
    except DATABASE_ERRORS:
        return False
    log.error("run_lost", run=str(run))
    return True


def work_on(engine: Engine, settings: Settings, claim: Claim) -> None:
    """Ingest one slice and move its run: requeue, postpone, complete, cancel or fail it.

    Raise ClaimLost or LeaseLost. Raise the database's error if the move could not be written either. The lease then
    expires, and the reconciler requeues, fails or cancels the run.
    """
    try:
        _work_on(engine, settings, claim)
    except DATABASE_ERRORS as raised:
        error = explain(engine, raised)
        if classify(error) is None:
            log.exception("slice_crashed")
            _fail_for_bug(engine, claim, raised)
        else:
            _wait_for_database(engine, settings, claim, error)


def _work_on(engine: Engine, settings: Settings, claim: Claim) -> None:
    source = SOURCES.get(claim.source)
    if source is None and claim.source in BROKEN:
        _fail(engine, claim, "source_broken", hide_secrets(BROKEN[claim.source].detail))
        return
    if source is None:
        _fail(engine, claim, "unknown_source", f"source {claim.source!r} no longer exists")
        return
    if claim.paused_reason and not lift_outdated_pause(engine, source):
        _wait_for_resume(engine, claim)
        return
    try:
        slice_ = Slice(engine, settings, source, claim)
        slice_.work()
        if is_retracting(source, claim):
            retract_missing(engine, settings, source, claim, slice_.check_time)
        verdict = complete_run(engine, claim, source)
    except (ClaimLost, LeaseLost):
        raise
    except SliceEnded:
        requeue_run(engine, claim)
        log.info("slice_ended")
        reach("between_slices")
        publish(engine, [claim.run])
    except Cancelled:
        with engine.begin() as connection:
            end_run(connection, claim, "cancelled")
        log.info("run_ended", status="cancelled")
    except LeaseHeld as held:
        postpone_run(engine, claim, str(held), seconds=held.seconds, is_failure=False)
        log.info("run_waiting", reason=str(held), wait_seconds=held.seconds)
    except TransientError as error:
        _wait(engine, settings, claim, error.code, error.detail, error.retry_after, error.is_failure)
    except TerminalError as error:
        _fail(engine, claim, error.code, error.detail, error.pause)
    except SoftTimeLimitExceeded:
        # The lease stays until it expires, and the attempt counts. A page that always takes too long ends its run.
        log.warning("slice_timed_out")
        raise
    except DATABASE_ERRORS:
        raise
    except Exception as error:
        log.exception("slice_crashed")
        if detail := describe_source_error(source, error):
            _fail(engine, claim, SOURCE_ERROR, detail)
        else:
            _fail_for_bug(engine, claim, error)
    else:
        reason = {"code": verdict.code, "reason": verdict.detail} if verdict.code else {}
        log.info("run_ended", status=verdict.status, **reason)


def _wait_for_database(engine: Engine, settings: Settings, claim: Claim, error: Exception) -> None:
    def postpone() -> None:
        if classify(error) is DatabaseError.DISK_FULL:
            _wait_for_disk_space(engine, settings, claim, describe(error))
        elif classify(error) is DatabaseError.SCHEMA_BEHIND:
            # This is not a failure of the run, however long the migration takes.
            _wait(engine, settings, claim, "schema_behind", describe(error), is_failure=False)
        else:
            # A lock that another transaction holds is no failure of this run, however long it is held.
            is_failure = sqlstate(error) != LOCK_NOT_AVAILABLE
            _wait(engine, settings, claim, "database_unavailable", describe(error), is_failure=is_failure)

    # With retries, a restart of Postgres delays the run by a few seconds, not by the length of a lease.
    retry_transaction(postpone, time.monotonic() + settings.transaction_timeout / 2)


def _wait_for_disk_space(engine: Engine, settings: Settings, claim: Claim, detail: str) -> None:
    """Postpone the run and pause its source. Other runs would fetch data that cannot be stored."""
    seconds, reason = settings.disk_full_pause, f"{DISK_FULL}: {detail}"
    try:
        with engine.begin() as connection:
            extend_pause(connection, claim.source, timedelta(seconds=seconds), reason)
    finally:  # even if the pause could not be stored
        postpone_run(engine, claim, reason, seconds=seconds, is_failure=False)
    log.error("run_waiting", code=DISK_FULL, reason=detail, wait_seconds=seconds)


def _fail_for_bug(engine: Engine, claim: Claim, error: Exception) -> None:
    _fail(engine, claim, "internal_error", f"{hide_secrets(_describe_bug(error))}; the log has the traceback")


def _describe_bug(error: Exception) -> str:
    # The text of a database error can contain a whole statement with its values.
    return type(error).__name__ if isinstance(error, DATABASE_ERRORS) else describe_error(error)


def _fail(engine: Engine, claim: Claim, code: str, detail: str, pause: timedelta | None = None) -> None:
    detail = append_failures(engine, claim, detail)
    source = SOURCES.get(claim.source)
    configuration = None
    if pause is not None and source and code in LIFTED_BY_SETTINGS:
        configuration = Configuration(configuration_fingerprint(source), configuration_settings(source))
    with engine.begin() as connection:
        fail_run(connection, claim, code, detail, pause, configuration)
    log.error("run_ended", status="failed", code=code, reason=detail)


def _wait_for_resume(engine: Engine, claim: Claim) -> None:
    seconds = (claim.paused_until - claim.now).total_seconds() if claim.paused_until else PAUSED_CHECK_INTERVAL
    postpone_run(engine, claim, f"the source is paused: {claim.paused_reason}", seconds=seconds, is_failure=False)
    log.info("run_waiting", reason="paused", wait_seconds=seconds)


def _wait(
    engine: Engine,
    settings: Settings,
    claim: Claim,
    code: str,
    detail: str,
    retry_after: float | None = None,
    is_failure: bool = True,
) -> None:
    """Postpone the run by `retry_after` seconds. If that is None, postpone it by RETRY_AFTER_FAILURE.

    After a failure, the wait doubles each time and is at least `retry_after`. After MAX_WAITS waits, fail the run.
    """
    seconds = settings.retry_after_failure if retry_after is None else retry_after
    if is_failure:
        waits = count_waits(engine, claim)
        if waits >= settings.max_waits:
            _fail(engine, claim, code, f"{detail}; gave up after {waits} waits")
            return
        doubled = settings.retry_after_failure * 2 ** min(waits, 30)  # the limit prevents an overflow
        seconds = max(seconds, min(MAX_FAILURE_WAIT, doubled))
    postpone_run(engine, claim, f"{code}: {detail}", seconds=seconds, is_failure=is_failure)
    log.warning("run_waiting", code=code, reason=detail, wait_seconds=round(seconds, 1))
