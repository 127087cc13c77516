"""The one task that brings data in: a slice of a run, from its claim to its next move."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from settings import Settings, get_settings
from sources.contract import TerminalError, TransientError
from sources.registry import SOURCES
from tasks.celery import celery
from tasks.claims import Claim, ClaimLost, claim_run, end, fail, put_back, succeed, wait, waits_since_page
from tasks.database import worker_engine
from tasks.faults import reach
from tasks.leases import Cancelled, LeaseHeld, LeaseLost
from tasks.pipeline import PartitionsFailed, Slice, SliceEnded
from tasks.runs import publish
from tasks.shutdown import told_to_stop

log = structlog.get_logger()

LONGEST_WAIT = 900.0
"""Seconds between two tries of a run whose upstream is down."""

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
        log.error("message_not_understood", run=repr(run)[:100], expected="the id of a run")
        return
    engine, settings = worker_engine(), get_settings()
    if told_to_stop():
        publish(engine, [asked_for])  # for a worker that stays
        return
    claim = claim_run(engine, asked_for)
    if claim is None:
        log.info("run_not_due", run=run)
        return
    context = {"run": run, "source": claim.source, "request_id": claim.request_id, "traceparent": claim.traceparent}
    with structlog.contextvars.bound_contextvars(**{name: value for name, value in context.items() if value}):
        log.info("slice_started", slice=claim.number, attempt=claim.attempts)
        try:
            work_on(engine, settings, claim)
        except (ClaimLost, LeaseLost) as lost:
            log.warning("slice_fenced_off", detail=str(lost))
    reach("before_acknowledgement")


def work_on(engine: Engine, settings: Settings, claim: Claim) -> None:
    """One slice, and the move of the run that follows from how it went. Raises ClaimLost, LeaseLost."""
    source = SOURCES.get(claim.source)
    if source is None:
        _give_up(engine, claim, "unknown_source", f"no source is named {claim.source!r} any more")
        return
    if claim.paused_reason:
        _wait_out_the_pause(engine, claim)
        return
    try:
        Slice(engine, settings, source, claim).work()
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
        log.info("run_waits", reason=str(held), seconds=held.seconds)
    except TransientError as error:
        _wait(engine, settings, claim, error.code, error.detail, error.retry_after)
    except PartitionsFailed as error:
        _give_up(engine, claim, error.first.code, str(error), error.first.pause)
    except TerminalError as error:
        _give_up(engine, claim, error.code, error.detail, error.pause)
    except (OperationalError, InterfaceError) as error:
        # If it does not even answer to this, the lease runs out, and the reconciler puts the run back.
        _wait(engine, settings, claim, "database_unavailable", type(error.orig or error).__name__)
    except SoftTimeLimitExceeded:
        # The lease runs out, and the attempt counts: a page that never gets done in time must not be tried for ever.
        log.warning("slice_timed_out")
        raise
    except Exception as error:
        log.exception("slice_crashed")
        _give_up(engine, claim, "internal_error", f"{type(error).__name__}; the log has the traceback")
    else:
        log.info("run_ended", status=succeed(engine, claim))


def _give_up(engine: Engine, claim: Claim, code: str, detail: str, pause: timedelta | None = None) -> None:
    with engine.begin() as connection:
        fail(connection, claim, code, detail, pause)
    log.error("run_ended", status="failed", code=code, detail=detail)


def _wait_out_the_pause(engine: Engine, claim: Claim) -> None:
    left = (claim.paused_until - claim.now).total_seconds() if claim.paused_until else A_PAUSE
    wait(engine, claim, f"the source is paused: {claim.paused_reason}", seconds=left, is_failure=False)
    log.info("run_waits", reason="paused", seconds=left)


def _wait(
    engine: Engine, settings: Settings, claim: Claim, code: str, detail: str, retry_after: float | None = None
) -> None:
    """Go on later: when the upstream or the limiter says, else after a gap that doubles, for so many times."""
    if retry_after is not None:
        seconds = retry_after
    else:
        waits = waits_since_page(engine, claim)
        if waits >= settings.max_waits:
            _give_up(engine, claim, code, f"{detail}; gave up after {waits} waits")
            return
        seconds = min(LONGEST_WAIT, settings.retry_after_failure * 2**waits)
    wait(engine, claim, f"{code}: {detail}", seconds=seconds, is_failure=retry_after is None)
    log.warning("run_waits", code=code, reason=detail, seconds=round(seconds, 1))
