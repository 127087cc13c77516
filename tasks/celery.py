"""The Celery app. Redis only carries messages: what is to be done stands in Postgres, so any message may vanish."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from kombu import Connection, Exchange, Queue

from settings import SettingsError, get_settings
from tasks.runtime.logs import configure_logging

try:
    settings = get_settings()
    import_module("sources.registry")  # what is wrong with a source's settings is said as plainly
except SettingsError as error:
    sys.exit(str(error))

# More than the second after which Redis answers that there is no message: replies come over such connections, too.
PUBLISHING = {"socket_timeout": 1.5}


class Service(Celery):
    """Celery, but that who publishes soon gives up on a Redis that says nothing: the reconciler makes up for it."""

    events_cls = "tasks.runtime.celery_consumer:SingleAttemptEvents"

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        given = options.pop("transport_options", None) or {}
        connection: Connection = super().connection_for_write(url, transport_options=PUBLISHING | given, **options)
        return connection


celery = Service("kasparro", include=["tasks.ingest", "tasks.assist", "tasks.control"])
celery.conf.update(
    broker_url=settings.redis_url,
    broker_connection_retry_on_startup=True,
    # Celery's 100 tries are over within the hour; a Redis that is away for longer comes back, too.
    broker_connection_max_retries=None,
    # One that refuses to write (full, read-only) is one to wait for, not one to die of.
    broker_channel_error_retry=True,
    broker_transport_options={
        "visibility_timeout": settings.visibility_timeout,
        # A dead worker's message is seen again within seconds of its time-out, not within kombu's 100.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # A Redis that vanished without a word is noticed; 0.8 s is what a request waits for a dead one.
        "socket_timeout": 10,
        "socket_connect_timeout": 0.8,
        # Who publishes does not wait for Redis to come back.
        "max_retries": 0,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
    # A message is done when its slice is: a killed worker's comes back.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # `runs` is the result; a result backend would make publishing hang for 19 s while Redis is down.
    result_backend=None,
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in ("ingest", "control")],
    task_default_queue="control",
    task_create_missing_queues=False,
    timezone="UTC",
    worker_consumer="tasks.runtime.celery_consumer:LastingConsumer",
    worker_send_task_events=True,
    task_send_sent_event=True,
    # Memory that a parser fragmented goes back to the system now and then.
    worker_max_tasks_per_child=200,
    beat_scheduler="tasks.schedule:SlotScheduler",
    beat_max_loop_interval=5,
)


@setup_logging.connect
def _log_our_way(**_: Any) -> None:
    configure_logging(settings)
