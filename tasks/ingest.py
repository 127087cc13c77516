"""The one task that brings data in: a slice of a run, from its claim to its next move."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Any

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Reject as HandBack
from sqlalchemy import Engine

from settings import Settings, get_settings
from sources.contract import TerminalError, TransientError
from sources.registry import SOURCES
from store.errors import DatabaseError, classify, describe
from tasks.celery import celery
from tasks.pipeline.slice import Slice, SliceEnded
from tasks.runs.claims import (
    DISK_FULL,
    Claim,
    ClaimLost,
    claim_run,
    end,
    fail,
    pause_at_least,
    put_back,
    succeed,
    wait,
    waits_since_page,
)
from tasks.runs.leases import Cancelled, LeaseHeld, LeaseLost
from tasks.runs.partitions import with_failures
from tasks.runs.requests import publish
from tasks.runtime.database import worker_engine
from tasks.runtime.fault_points import reach
from tasks.runtime.retry import DATABASE_ERRORS, retry_transaction
from tasks.runtime.shutdown import finish_page_on_sigterm, is_stopping

log = structlog.get_logger()

LONGEST_WAIT = 900.0
"""Seconds between two tries of a run whose upstream is down."""

A_BREATH = 2.0
"""Seconds between two tries of a message while the database does not answer."""

A_PAUSE = 86_400.0
"""Seconds after which a run of a source that is paused until it is resumed looks again."""


@celery.task(
    name="kasparro.ingest",
    soft_time_limit=get_settings().task_soft_limit,
    time_limit=get_settings().task_hard_limit,
)
def ingest(run: str = "", *_: Any, **__: Any) -> None:
    """Work on a run for one slice. Further arguments are tolerated: a newer version may have sent the message."""
    try:
        asked_for = uuid.UUID(run)
    except (ValueError, TypeError, AttributeError):
        log.error("message_invalid", run=repr(run)[:100], expected="the id of a run")
        return
    engine, settings = worker_engine(), get_settings()
    if is_stopping():
        raise HandBack(requeue=True)  # for a worker that stays
    try:
        claim = claim_run(engine, asked_for)
    except DATABASE_ERRORS as error:
        if classify(error) is None:
            raise
        log.warning("message_requeued", run=run, reason=describe(error))
        time.sleep(A_BREATH)
        # To be taken by a host that reaches the database, if there is one.
        raise HandBack(requeue=True) from None
    if claim is None:
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
        except DATABASE_ERRORS as error:
            if classify(error) is None:
                raise
            # The lease runs out, and the reconciler puts the run back.
            log.warning("slice_abandoned", reason=describe(error))
    reach("before_acknowledgement")


def work_on(engine: Engine, settings: Settings, claim: Claim) -> None:
    """One slice, and the move of the run that follows from how it went. Raises ClaimLost, LeaseLost.

    And what Postgres raises, where not even the wait for it could be written: then the lease runs out.
    """
    try:
        _work_on(engine, settings, claim)
    except DATABASE_ERRORS as error:
        if classify(error) is None:
            raise
        _bear_the_database(engine, settings, claim, error)


def _work_on(engine: Engine, settings: Settings, claim: Claim) -> None:
    source = SOURCES.get(claim.source)
    if source is None:
        _give_up(engine, claim, "unknown_source", f"no source is named {claim.source!r} any more")
        return
    if claim.paused_reason:
        _wait_out_the_pause(engine, claim)
        return
    try:
        Slice(engine, settings, source, claim).work()
        status = succeed(engine, claim)
    except (ClaimLost, LeaseLost):
        raise
    except SliceEnded:
        put_back(engine, claim)
        log.info("slice_ended")
        reach("between_slices")
        publish(engine, [claim.run])
    except Cancelled:
        with engine.begin() as connection:
            end(connection, claim, "cancelled")
        log.info("run_ended", status="cancelled")
    except LeaseHeld as held:
        wait(engine, claim, str(held), seconds=held.seconds, is_failure=False)
        log.info("run_waiting", reason=str(held), wait_seconds=held.seconds)
    except TransientError as error:
        _wait(engine, settings, claim, error.code, error.detail, error.retry_after, error.is_failure)
    except TerminalError as error:
        _give_up(engine, claim, error.code, error.detail, error.pause)
    except SoftTimeLimitExceeded:
        # The lease runs out, and the attempt counts: a page that never gets done in time must not be tried for ever.
        log.warning("slice_timed_out")
        raise
    except Exception as error:
        if classify(error) is not None:
            raise
        log.exception("slice_crashed")
        _give_up(engine, claim, "internal_error", f"{type(error).__name__}; the log has the traceback")
    else:
        log.info("run_ended", status=status)


def _bear_the_database(engine: Engine, settings: Settings, claim: Claim, error: Exception) -> None:
    def step_aside() -> None:
        if classify(error) is DatabaseError.FULL:
            _wait_for_room(engine, settings, claim, describe(error))
        else:
            _wait(engine, settings, claim, "database_unavailable", describe(error))

    # A restart should cost a few seconds, not a lease.
    retry_transaction(step_aside, time.monotonic() + settings.transaction_timeout / 2)


def _wait_for_room(engine: Engine, settings: Settings, claim: Claim, detail: str) -> None:
    """Pause the source as well: each of its runs would fetch what cannot be kept."""
    seconds, reason = settings.disk_full_pause, f"{DISK_FULL}: {detail}"
    try:
        with engine.begin() as connection:
            pause_at_least(connection, claim.source, timedelta(seconds=seconds), reason)
    finally:  # though there was no room for that either
        wait(engine, claim, reason, seconds=seconds, is_failure=False)
    log.error("run_waiting", code=DISK_FULL, reason=detail, wait_seconds=seconds)


def _give_up(engine: Engine, claim: Claim, code: str, detail: str, pause: timedelta | None = None) -> None:
    detail = with_failures(engine, claim, detail)
    with engine.begin() as connection:
        fail(connection, claim, code, detail, pause)
    log.error("run_ended", status="failed", code=code, reason=detail)


def _wait_out_the_pause(engine: Engine, claim: Claim) -> None:
    left = (claim.paused_until - claim.now).total_seconds() if claim.paused_until else A_PAUSE
    wait(engine, claim, f"the source is paused: {claim.paused_reason}", seconds=left, is_failure=False)
    log.info("run_waiting", reason="paused", wait_seconds=left)


def _wait(
    engine: Engine,
    settings: Settings,
    claim: Claim,
    code: str,
    detail: str,
    retry_after: float | None = None,
    is_failure: bool = True,
) -> None:
    """Go on later. After a failure not before the upstream says, with a gap that doubles, and only so many times."""
    seconds = settings.retry_after_failure if retry_after is None else retry_after
    if is_failure:
        waits = waits_since_page(engine, claim)
        if waits >= settings.max_waits:
            _give_up(engine, claim, code, f"{detail}; gave up after {waits} waits")
            return
        doubled = settings.retry_after_failure * 2 ** min(waits, 30)  # who waits for ever must not overflow
        seconds = max(seconds, min(LONGEST_WAIT, doubled))
    wait(engine, claim, f"{code}: {detail}", seconds=seconds, is_failure=is_failure)
    log.warning("run_waiting", code=code, reason=detail, wait_seconds=round(seconds, 1))
