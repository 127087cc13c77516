"""A worker's consumer of messages, which outlives whatever becomes of its connection to Redis."""

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

BREATH = 1.0
LONGEST_WAIT = 10
"""Seconds between two tries to reach a Redis that is away. Celery's become 30."""


class LastingConsumer(Consumer):
    """Celery's, without the ways in which a lost connection, or a message, ends the worker or leaves it deaf."""

    loop: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.loop = partial(read_or_reconnect, self.loop)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        take = super().create_task_handler(*args, **kwargs)

        def take_or_drop(message: Any) -> None:
            try:
                take(message)
            except self.connection_errors:
                raise
            except Exception:
                # Left in the queue, it would end one worker after the other.
                log.exception("message_invalid")
                message.reject_log_error(log, self.connection_errors)

        return take_or_drop

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=LONGEST_WAIT)
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            # It is closed twice, and gives back a message in hand each time: the second time with nothing to do so by.
            log.warning("connection_close_failed", reason=str(error))

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Celery tries again at once: against a Redis that takes connections and refuses to write, for ever."""
        super().on_connection_error_before_connected(exc)
        sleep(BREATH)

    def call_soon_ack(self, settle: Callable[..., None], *args: Any, **kwargs: Any) -> Any:
        """settle: acknowledges or rejects a message, whose method it is."""
        return super().call_soon_ack(partial(settle_or_reconnect, settle), *args, **kwargs)


class SingleAttemptEvents(Events):
    """Celery's, each sent once."""

    dispatcher_cls = "tasks.runtime.celery_consumer:SingleAttemptDispatcher"


class SingleAttemptDispatcher(EventDispatcher):
    """Tells Flower what a worker does, and that it lives.

    The latter Celery sends until Redis takes it, and does nothing else meanwhile: the worker takes no task's result,
    enforces no time limit, and does not stop when it is told to.
    """

    def send(self, type: str, *args: Any, retry: bool = False, **fields: Any) -> Any:
        return super().send(type, *args, retry=False, **fields)


def read_or_reconnect(loop: Callable[..., None], *args: Any) -> None:
    """Celery's loop over what Redis sends. What is no message at all has left the queue, and costs the connection."""
    try:
        loop(*args)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        log.exception("message_invalid")
        raise ConnectionError("what was read is no message; another connection is needed") from error


def settle_or_reconnect(settle: Callable[..., None], *args: Any) -> None:
    """Acknowledge or reject a message. Raises ConnectionError where that failed on the connection it came over."""
    message = settle.__self__  # type: ignore[attr-defined]  # a bound method, to everyone a Callable
    if message.channel.closed:
        # It came over a connection that was lost since, and is delivered again. That copy finds its run not due.
        return
    settle(*args)
    if not message.acknowledged:
        # Celery notes that and goes on, with the message counted as in hand for ever: a slot less, until none is left.
        raise ConnectionError("a message could not be acknowledged; another connection is needed")
