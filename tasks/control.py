"""Define the control tasks. They have their own queue and worker, so that long slices never delay them."""

from __future__ import annotations

from typing import Any

import structlog
from kombu.exceptions import OperationalError as BrokerUnreachable
from redis.exceptions import RedisError

from settings import get_settings
from store.errors import classify, describe
from store.schema import explain
from tasks.anomalies.freshness import record_late_sources
from tasks.anomalies.judge import judge_runs
from tasks.archive.retention import delete_expired
from tasks.archive.seen_quotes import delete_seen
from tasks.celery import celery
from tasks.identity.overrides_file import get_overrides
from tasks.identity.rematch import rematch_steps
from tasks.integrity.verify import verify_data
from tasks.runs.reconciler import reconcile
from tasks.runtime.database import worker_engine
from tasks.runtime.heartbeats import send_heartbeat
from tasks.runtime.outdated_schema import schema_log
from tasks.runtime.retry import DATABASE_ERRORS
from tasks.runtime.stepwise import StepwiseJob

log = structlog.get_logger()

MAX_QUEUED_MESSAGES = 100
"""No canary is sent while this many messages are in the ingest queue."""


@celery.task(name="kasparro.reconcile", soft_time_limit=60, time_limit=90)
def reconcile_runs(**_: Any) -> None:
    """Requeue, fail or cancel abandoned runs, publish due runs, and send a canary through the ingest queue."""
    if reconcile(worker_engine(), get_settings()):
        send_heartbeat("control")
    try:
        send_canary()
    except (BrokerUnreachable, RedisError, OSError) as error:
        log.warning("canary_failed", reason=f"{type(error).__name__}: {error}")


@celery.task(name="kasparro.retain", soft_time_limit=60, time_limit=90)
def retain(**_: Any) -> None:
    """Delete expired quotes and bodies, and unneeded records of seen quotes, within a time limit.

    If some are left, send the task again.
    """
    is_complete = delete_expired(worker_engine(), get_settings())
    try:
        is_complete = delete_seen(worker_engine()) and is_complete
    except DATABASE_ERRORS as raised:
        error = explain(worker_engine(), raised)
        if classify(error) is None:
            raise
        if not schema_log.error(error):
            log.warning("retention_failed", kind="seen quotes", reason=describe(error))
    if not is_complete:
        _send_again("kasparro.retain")


@celery.task(name="kasparro.judge", soft_time_limit=60, time_limit=90)
def judge(**_: Any) -> None:
    """Compare finished runs with earlier runs within a time limit, and record which sources are late."""
    try:
        is_complete = judge_runs(worker_engine())
        record_late_sources(worker_engine())
    except DATABASE_ERRORS as raised:
        error = explain(worker_engine(), raised)
        if classify(error) is None:
            raise
        if not schema_log.error(error):
            log.warning("anomaly_check_failed", reason=describe(error))
    else:
        if not is_complete:
            _send_again("kasparro.judge")


@celery.task(name="kasparro.verify", soft_time_limit=60, time_limit=90)
def verify(**_: Any) -> None:
    """Check the next batches of the stored data."""
    try:
        verify_data(worker_engine())
    except DATABASE_ERRORS as error:
        if classify(error) is None:
            raise
        log.warning("integrity_check_failed", reason=describe(error))


_rematch_job = StepwiseJob(lambda: rematch_steps(worker_engine(), get_overrides()))


@celery.task(name="kasparro.rematch", soft_time_limit=60, time_limit=90)
def rematch(part: str | None = None, **_: Any) -> None:
    """Merge assets that the rules could not match when their listings were first seen.

    part: the part of the rematch to do; None to start a rematch. The task sends itself again for the next part.
    """
    try:
        next_part = _rematch_job.work(part)
    except DATABASE_ERRORS as raised:
        error = explain(worker_engine(), raised)
        if classify(error) is None:
            raise
        if not schema_log.error(error):
            log.warning("rematch_failed", reason=describe(error))
    else:
        if next_part:
            _send_again("kasparro.rematch", part=next_part)


@celery.task(name="kasparro.look_again", soft_time_limit=60, time_limit=90)
def look_again(**_: Any) -> None:
    """Rematch assets. The task had this name before 0.1.0, and a beat of an earlier version still sends it."""
    rematch()


def _send_again(task: str, **arguments: Any) -> None:
    """Send a control task again, to do the rest of its work after the tasks that are already queued.

    If Redis does not accept it, beat starts the task at its next interval.
    """
    try:
        celery.send_task(task, kwargs=arguments, queue="control", retry=False)
    except (BrokerUnreachable, RedisError, OSError) as error:
        log.warning("control_task_failed", task=task, reason=f"{type(error).__name__}: {error}")


def send_canary() -> None:
    """Send a canary, unless the ingest queue is long. Otherwise canaries would pile up while no worker consumes.

    The message has no expiry, because an expiry depends on the clocks of two hosts.
    """
    with celery.connection_for_write() as connection:
        if connection.default_channel.queue_declare("ingest").message_count < MAX_QUEUED_MESSAGES:
            celery.send_task("kasparro.canary", queue="ingest", retry=False, connection=connection)


@celery.task(name="kasparro.canary", soft_time_limit=10, time_limit=20)
def canary(**_: Any) -> None:
    """Send a heartbeat, which proves that a worker consumes messages. A response to a ping would not prove that."""
    send_heartbeat("worker")
