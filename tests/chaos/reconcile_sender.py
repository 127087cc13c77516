"""Send the reconciler's message as beat does, without the runs of a schedule."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from celery import Celery
from kombu.exceptions import OperationalError


def message_sender(broker_url: str) -> Celery:
    """Return a Celery app that sends messages with the service's timeouts."""
    celery = Celery("chaos", broker=broker_url, set_as_current=False)
    transport = {"socket_timeout": 2, "socket_connect_timeout": 0.8, "max_retries": 0}
    celery.conf.update(broker_transport_options=transport, task_ignore_result=True, result_backend=None)
    return celery


class ReconcileSender:
    """A thread that sends `kasparro.reconcile` every `interval` seconds. Messages are lost while Redis is down."""

    def __init__(self, broker_url: Callable[[], str], interval: float):
        self._broker_url, self._interval = broker_url, interval
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the thread, unless it runs already."""
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._send, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _send(self) -> None:
        url = ""
        celery = Celery("chaos", set_as_current=False)
        while not self._ended.is_set():
            if url != (url := self._broker_url()):
                celery.close()
                celery = message_sender(url)
            with suppress(OperationalError, OSError):  # The next message may arrive.
                celery.send_task("kasparro.reconcile", queue="control", expires=self._interval, retry=False)
            self._ended.wait(self._interval)
        celery.close()
