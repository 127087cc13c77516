"""Assist another worker's slice: ingest partitions of its run. An assistant never changes the state of the run.

The slice itself ingests every partition that an assistant does not finish.
"""

from __future__ import annotations

import uuid
from typing import Any

import structlog
from billiard.exceptions import SoftTimeLimitExceeded

from settings import get_settings
from sources.contract import TransientError
from sources.registry import SOURCES
from store.errors import classify, describe
from store.schema import explain
from tasks.celery import celery
from tasks.pipeline.slice import Slice, SliceEnded
from tasks.runs.claims import ClaimLost, join_run
from tasks.runs.leases import Cancelled, LeaseLost
from tasks.runs.publishing import call_assistants
from tasks.runtime.database import worker_engine
from tasks.runtime.retry import DATABASE_ERRORS
from tasks.runtime.shutdown import finish_page_on_sigterm, is_stopping

log = structlog.get_logger()

ASSIST_SECONDS = 20.0
"""Seconds after which an assistant ends. A new assistant is then queued behind the runs that wait for a worker."""


@celery.task(
    name="kasparro.assist",
    soft_time_limit=get_settings().task_soft_limit,
    time_limit=get_settings().task_hard_limit,
)
def assist(run: str = "", number: int = 0, *_: Any, **__: Any) -> None:
    """Assist a slice of a run. Do nothing if the slice has ended. number: the claim number of the slice."""
    try:
        run_id, claim_number = uuid.UUID(run), int(number)
    except (ValueError, TypeError, AttributeError):
        log.error("message_invalid", run=repr(run)[:100], expected="the id of a run, and the number of a slice")
        return
    if is_stopping():
        return
    try:
        _assist(run_id, claim_number)
    except (ClaimLost, LeaseLost) as lost:
        log.warning("slice_fenced", run=run, reason=str(lost))
    except DATABASE_ERRORS as raised:
        error = explain(worker_engine(), raised)
        if classify(error) is None:
            raise
        log.warning("slice_abandoned", run=run, reason=describe(error))


def _assist(run: uuid.UUID, number: int) -> None:
    engine, settings = worker_engine(), get_settings()
    claim = join_run(engine, run, number)
    source = SOURCES.get(claim.source) if claim else None
    if claim is None or source is None:
        log.info("run_skipped", run=str(run))
        return
    context = {"run": str(run), "source": claim.source, "request_id": claim.request_id}
    with structlog.contextvars.bound_contextvars(**{name: value for name, value in context.items() if value}):
        log.info("slice_assisted", slice=number)
        try:
            with finish_page_on_sigterm():
                Slice(engine, settings, source, claim, seconds=ASSIST_SECONDS).assist()
        except SliceEnded:
            if not is_stopping():
                call_assistants(claim, 1)
        except Cancelled:
            pass  # the assisted slice ends the run
        except TransientError as error:
            log.warning("partition_waiting", code=error.code, reason=error.detail)
        except SoftTimeLimitExceeded:
            log.warning("slice_timed_out")
            raise
