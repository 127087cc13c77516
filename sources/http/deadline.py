"""Enforce a deadline on a whole request: on connecting, on the headers and on the body.

The timeouts of the HTTP libraries apply to a single read. A server that sends a byte now and then never exceeds them.
So the connection is shut down at the deadline. Only host name lookups are exempt: they follow the resolver's own
limits.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, cast

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import create_connection


class Deadline:
    """A time limit on the monotonic clock, in seconds from its creation."""

    def __init__(self, seconds: float):
        self.at = time.monotonic() + seconds
        self._is_enforced = False
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def seconds_left(self) -> float:
        return self.at - time.monotonic()

    @property
    def is_over(self) -> bool:
        return self._is_enforced or self.seconds_left <= 0

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Shut down this thread's connection at the deadline. Only connections of a `DeadlineAdapter` are covered."""
        timer = threading.Timer(self.seconds_left, self._enforce)
        timer.daemon = True
        token = _CURRENT.set(self)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            _CURRENT.reset(token)
            self._hold(None)

    @contextmanager
    def shortened(self, seconds: float) -> Iterator[None]:
        """Shut down this thread's connection after some seconds, and leave the deadline itself unchanged."""
        timer = threading.Timer(min(seconds, self.seconds_left), self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        """Shut down this connection at the deadline, instead of the previous connection."""
        # Duplicate the file descriptor: TLS detaches the socket, and the system reuses closed descriptor numbers.
        self._hold(socket.socket(fileno=os.dup(connection.fileno())))

    def _hold(self, connection: socket.socket | None) -> None:
        with self._lock:
            if self._connection:
                self._connection.close()
            self._connection = connection
            if self._is_enforced:
                self._shut_down()

    def _enforce(self) -> None:
        with self._lock:
            self._is_enforced = True
            self._shut_down()

    def _cut(self) -> None:
        with self._lock:
            self._shut_down()

    def _shut_down(self) -> None:
        if self._connection:
            with suppress(OSError):  # The peer has already closed it.
                self._connection.shutdown(socket.SHUT_RDWR)


_CURRENT: ContextVar[Deadline] = ContextVar("_CURRENT")
"""The deadline of the request that this thread is making."""


class _WatchedConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        """Connect to one of the host's addresses within the deadline.

        urllib3 would allow the whole timeout for each address, even if less time is left.
        """
        deadline, failure = _CURRENT.get(), OSError("no address could be tried in time")
        for *_, address in socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM):
            if deadline.is_over:
                break
            try:
                connection = create_connection(
                    (str(address[0]), self.port),
                    min(self.timeout or deadline.seconds_left, deadline.seconds_left),
                    self.source_address,
                    self.socket_options,
                )
            except OSError as error:
                failure = error
            else:
                deadline.watch(connection)
                return connection
        error_class = ConnectTimeoutError if isinstance(failure, TimeoutError) else NewConnectionError
        raise error_class(self, str(failure)) from failure

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # Reuse the connection of an earlier request.
            _CURRENT.get().watch(self.sock)
        super().request(*args, **kwargs)


class _WatchedTLSConnection(_WatchedConnection, HTTPSConnection):
    pass


class DeadlineAdapter(HTTPAdapter):
    """An adapter that applies the current deadline to each connection of a request."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool = cast(HTTPConnectionPool, super().get_connection_with_tls_context(*args, **kwargs))
        pool.ConnectionCls = _WatchedTLSConnection if pool.scheme == "https" else _WatchedConnection
        return pool
