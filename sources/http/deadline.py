"""A time by which a request is over, however its upstream dawdles: while connecting, in the head or in the body.

A timeout of the libraries is that of a single read, and who sends a byte now and then keeps to every one of them. So
the connection is hung up at the deadline. Only the look-up of a host's name goes by the resolver's own limits.
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
    """So many seconds from now."""

    def __init__(self, seconds: float):
        self.at = time.monotonic() + seconds
        self._hung_up = False
        self._line: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        return self.at - time.monotonic()

    @property
    def is_over(self) -> bool:
        return self._hung_up or self.left <= 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Hangs up at the deadline on whom this thread speaks with by then, through `KeepsDeadlines`."""
        timer = threading.Timer(self.left, self._hang_up)
        timer.daemon = True
        token = _KEPT.set(self)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            _KEPT.reset(token)
            self._hold(None)

    def watch(self, connected: socket.socket) -> None:
        # A handle of its own: TLS takes the socket away from its object, and a closed one's number goes to another.
        self._hold(socket.socket(fileno=os.dup(connected.fileno())))

    def _hold(self, line: socket.socket | None) -> None:
        with self._lock:
            if self._line:
                self._line.close()
            self._line = line
            if self._hung_up:
                self._shut()

    def _hang_up(self) -> None:
        with self._lock:
            self._hung_up = True
            self._shut()

    def _shut(self) -> None:
        if self._line:
            with suppress(OSError):  # it has just ended by itself
                self._line.shutdown(socket.SHUT_RDWR)


_KEPT: ContextVar[Deadline] = ContextVar("_KEPT")
"""The deadline of the request that this thread makes."""


class _Watched(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        """As urllib3 does it, but that gives each of a host's addresses the whole timeout, whatever is left."""
        deadline, failure = _KEPT.get(), OSError("no address could be tried in time")
        for *_, address in socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM):
            if deadline.is_over:
                break
            try:
                connected = create_connection(
                    (str(address[0]), self.port),
                    min(self.timeout or deadline.left, deadline.left),
                    self.source_address,
                    self.socket_options,
                )
            except OSError as error:
                failure = error
            else:
                deadline.watch(connected)
                return connected
        kind = ConnectTimeoutError if isinstance(failure, TimeoutError) else NewConnectionError
        raise kind(self, str(failure)) from failure

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # of a request before this
            _KEPT.get().watch(self.sock)
        super().request(*args, **kwargs)


class _WatchedTLS(_Watched, HTTPSConnection):
    pass


class KeepsDeadlines(HTTPAdapter):
    """Lets the deadline that is kept know of each connection that a request is made through."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool = cast(HTTPConnectionPool, super().get_connection_with_tls_context(*args, **kwargs))
        pool.ConnectionCls = _WatchedTLS if pool.scheme == "https" else _Watched
        return pool
