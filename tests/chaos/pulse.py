"""The reconciler's message, sent as beat sends it, where no schedule's runs are wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from celery import Celery
from kombu.exceptions import OperationalError


def carrier(broker_url: str) -> Celery:
    """Sends messages as the service does, and gives up as soon."""
    celery = Celery("chaos", broker=broker_url, set_as_current=False)
    transport = {"socket_timeout": 2, "socket_connect_timeout": 0.8, "max_retries": 0}
    celery.conf.update(broker_transport_options=transport, task_ignore_result=True, result_backend=None)
    return celery


class Pulse:
    """A thread that sends `kasparro.reconcile` every so many seconds; while Redis is down it is lost, as beat's is."""

    def __init__(self, broker_url: Callable[[], str], every: float):
        self._broker_url, self._every = broker_url, every
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
        """Unless it beats already."""
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _beat(self) -> None:
        url = ""
        celery = Celery("chaos", set_as_current=False)
        while not self._ended.is_set():
            if url != (url := self._broker_url()):
                celery.close()
                celery = carrier(url)
            with suppress(OperationalError, OSError):  # the next one may arrive
                celery.send_task("kasparro.reconcile", queue="control", expires=self._every, retry=False)
            self._ended.wait(self._every)
        celery.close()
