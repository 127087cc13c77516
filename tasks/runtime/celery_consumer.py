"""Keep a worker consuming after lost connections to Redis and after invalid messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import sleep
from typing import Any

import structlog
from celery.app.events import Events
from celery.events import EventDispatcher
from celery.worker.consumer import Consumer

log = structlog.get_logger()

RETRY_INTERVAL = 1.0
"""Seconds between two connections, if Redis accepts connections but refuses writes."""

MAX_RECONNECT_INTERVAL = 10
"""Maximum seconds between two attempts to connect to Redis. Celery's default grows to 30."""


class ResilientConsumer(Consumer):
    """A Celery consumer that keeps consuming after a lost connection to Redis or an invalid message."""

    loop: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.loop = partial(read_or_reconnect, self.loop)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def handle_or_reject(message: Any) -> None:
            try:
                handle(message)
            except self.connection_errors:
                raise
            except Exception:
                # If the message stayed in the queue, it would end one worker after another.
                log.exception("message_invalid")
                message.reject_log_error(log, self.connection_errors)

        return handle_or_reject

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=MAX_RECONNECT_INTERVAL)
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            # Celery closes the connection twice, and each time returns the current message to the queue. The second
            # time, the connection no longer exists.
            log.warning("connection_close_failed", reason=str(error))

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause before Celery reconnects. Otherwise it would retry without a pause while Redis refuses writes."""
        super().on_connection_error_before_connected(exc)
        sleep(RETRY_INTERVAL)

    def call_soon_ack(self, settle: Callable[..., None], *args: Any, **kwargs: Any) -> Any:
        """Acknowledge or reject a message soon. settle: the message's method to call."""
        return super().call_soon_ack(partial(settle_or_reconnect, settle), *args, **kwargs)


class SingleAttemptEvents(Events):
    """Send Celery's events with a dispatcher that never retries."""

    dispatcher_cls = "tasks.runtime.celery_consumer:SingleAttemptDispatcher"


class SingleAttemptDispatcher(EventDispatcher):
    """Send a worker's events and heartbeats to Flower, each once.

    Celery retries a heartbeat until Redis accepts it. Meanwhile the worker is blocked: it reads no results, enforces no
    time limits, and does not stop on SIGTERM.
    """

    def send(self, type: str, *args: Any, retry: bool = False, **fields: Any) -> Any:
        return super().send(type, *args, retry=False, **fields)


def read_or_reconnect(loop: Callable[..., None], *args: Any) -> None:
    """Run Celery's loop, which reads messages. Raise ConnectionError if an entry of the queue is not a message.

    The entry is already removed from the queue. The error makes the worker reconnect.
    """
    try:
        loop(*args)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        log.exception("message_invalid")
        raise ConnectionError("an entry of the queue is not a message; reconnecting") from error


def settle_or_reconnect(settle: Callable[..., None], *args: Any) -> None:
    """Acknowledge or reject a message. Raise ConnectionError if that fails on an open connection."""
    message = settle.__self__  # type: ignore[attr-defined]  # a bound method, typed as a Callable
    if message.channel.closed:
        # The connection was lost, so Redis delivers the message again. The second delivery is skipped, because its run
        # is not due.
        return
    settle(*args)
    if not message.acknowledged:
        # Celery only logs this and counts the message as unfinished forever. Each such message would reduce the number
        # of messages that the worker can receive.
        raise ConnectionError("a message could not be acknowledged; reconnecting")
