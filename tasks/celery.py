"""Configure the Celery app. Runs are stored in Postgres and Redis only carries messages, so any message may be lost."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from celery.signals import celeryd_init, setup_logging
from kombu import Connection, Exchange, Queue

from settings import SettingsError, get_settings
from tasks.runtime.logs import configure_logging

try:
    settings = get_settings()
    broken_sources = import_module("tasks.runtime.broken_sources")  # reads the settings of the sources
except SettingsError as error:
    sys.exit(str(error))

# Seconds. The same connections also read messages, and a read without a message blocks for one second. The timeout
# must be longer than that.
PUBLISHING_OPTIONS = {"socket_timeout": 1.5}


class Service(Celery):
    """A Celery app with short timeouts for publishing. If Redis hangs, the reconciler publishes the message later."""

    events_cls = "tasks.runtime.celery_consumer:SingleAttemptEvents"

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        transport_options = PUBLISHING_OPTIONS | (options.pop("transport_options", None) or {})
        connection: Connection = super().connection_for_write(url, transport_options=transport_options, **options)
        return connection


def verifying_url(url: str) -> str:
    """Return the URL of Redis so that Celery verifies the certificate of a `rediss://` server.

    By default, redis-py verifies it, but kombu accepts any certificate.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_cert_reqs" in parse_qs(parts.query):
        return url
    return parts._replace(query="&".join(filter(None, [parts.query, "ssl_cert_reqs=required"]))).geturl()


celery = Service("kasparro", include=["tasks.ingest", "tasks.assist", "tasks.control"])
celery.conf.update(
    broker_url=verifying_url(settings.redis_url),
    broker_connection_retry_on_startup=True,
    # Celery's default of 100 retries ends within an hour. Redis may be down for longer.
    broker_connection_max_retries=None,
    # If Redis is full or read-only and refuses writes, the worker waits instead of exiting.
    broker_channel_error_retry=True,
    broker_transport_options={
        "visibility_timeout": settings.visibility_timeout,
        # Check for messages of dead workers every 5 seconds. With kombu's defaults, this takes up to 100 seconds.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # Detect that Redis vanished without closing its connections. An API request waits at most 0.8 s to connect.
        "socket_timeout": 10,
        "socket_connect_timeout": 0.8,
        # Publish without retries, so that publishing does not block while Redis is down.
        "max_retries": 0,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
    # Acknowledge a message after its slice, so that Redis delivers the message of a killed worker again.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # The table `runs` stores the results. A result backend would block publishing for 19 s while Redis is down.
    result_backend=None,
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in ("ingest", "control")],
    task_default_queue="control",
    task_create_missing_queues=False,
    timezone="UTC",
    worker_consumer="tasks.runtime.celery_consumer:ResilientConsumer",
    worker_send_task_events=True,
    task_send_sent_event=True,
    # Restart each process after this many tasks, to free memory that parsers fragmented.
    worker_max_tasks_per_child=200,
    beat_scheduler="tasks.schedule:SlotScheduler",
    beat_max_loop_interval=5,
)


@celeryd_init.connect
def _keep_control_process(conf: Any, options: Mapping[str, Any], **_: Any) -> None:
    """Never restart the process of a control worker: it keeps the position of a rematch (tasks/runtime/stepwise.py).

    A rematch of many parts would otherwise start again and again. Control tasks parse nothing.
    """
    queues = options.get("queues") or ()
    if set(queues.split(",") if isinstance(queues, str) else queues) == {"control"}:
        conf.worker_max_tasks_per_child = None


@setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging(settings)
    broken_sources.log_broken_sources()
