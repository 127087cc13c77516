"""Control tasks, on a queue and a worker of their own: long slices must never keep them from running."""

from __future__ import annotations

from typing import Any

import structlog
from kombu.exceptions import OperationalError as BrokerUnreachable
from redis.exceptions import RedisError

from settings import get_settings
from store.errors import classify, describe
from tasks.anomalies.freshness import record_late_sources
from tasks.anomalies.judge import judge_runs
from tasks.archive.retention import delete_expired
from tasks.celery import celery
from tasks.identity.overrides_file import get_overrides
from tasks.identity.rematch import rematch_assets
from tasks.runs.reconciler import reconcile
from tasks.runtime.database import worker_engine
from tasks.runtime.heartbeats import send_heartbeat
from tasks.runtime.retry import DATABASE_ERRORS

log = structlog.get_logger()

MOST_WAITING = 100


@celery.task(name="kasparro.reconcile", soft_time_limit=60, time_limit=90)
def reconcile_runs(**_: Any) -> None:
    """Make up for messages and workers that vanished; then send a canary down the ingest queue."""
    if reconcile(worker_engine(), get_settings()):
        send_heartbeat("control")
    try:
        send_canary()
    except (BrokerUnreachable, RedisError, OSError) as error:
        log.warning("canary_failed", reason=f"{type(error).__name__}: {error}")


@celery.task(name="kasparro.retain", soft_time_limit=60, time_limit=90)
def retain(**_: Any) -> None:
    """Drop some of what no source is to keep any longer; the next turn goes on with it."""
    delete_expired(worker_engine(), get_settings())


@celery.task(name="kasparro.judge", soft_time_limit=60, time_limit=90)
def judge(**_: Any) -> None:
    """Hold the runs that have ended against those before them, and see which sources have fallen behind."""
    try:
        judge_runs(worker_engine())
        record_late_sources(worker_engine())
    except DATABASE_ERRORS as error:
        if classify(error) is None:
            raise
        log.warning("anomaly_check_failed", reason=describe(error))


@celery.task(name="kasparro.rematch", soft_time_limit=60, time_limit=90)
def rematch(**_: Any) -> None:
    """Decide of assets what could not be decided when their listings were met."""
    try:
        rematch_assets(worker_engine(), get_overrides())
    except DATABASE_ERRORS as error:
        if classify(error) is None:
            raise
        log.warning("rematch_failed", reason=describe(error))


@celery.task(name="kasparro.look_again", soft_time_limit=60, time_limit=90)
def look_again(**_: Any) -> None:
    """Rematch: the name of this task before 0.1.0, which a beat of the version before still sends."""
    rematch()


def send_canary() -> None:
    """Unless so much waits that no worker can be idle: where none consumes, canaries would pile up.

    An expiry would do that too, but by the clocks of two hosts.
    """
    with celery.connection_for_write() as connection:
        if connection.default_channel.queue_declare("ingest").message_count < MOST_WAITING:
            celery.send_task("kasparro.canary", queue="ingest", retry=False, connection=connection)


@celery.task(name="kasparro.canary", soft_time_limit=10, time_limit=20)
def canary(**_: Any) -> None:
    """Prove that an ingest worker consumes: one that only answers a ping may have stopped doing so."""
    send_heartbeat("worker")
