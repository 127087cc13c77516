"""The connection to whoever reads a long answer: given up when they take nothing, broken when the answer is."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

RESET_ON_CLOSE, AS_USUAL = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


class ClientConnection:
    """A context manager around a long answer: leaving it before `done` breaks the connection.

    By a reset, and not by an orderly end: over HTTP/1.0, which proxies speak to what is behind them, an orderly end is
    how an answer is complete. Without gunicorn's socket, as in tests, it does nothing.
    """

    def __init__(self, environ: Mapping[str, Any], patience: float):
        """patience: seconds that the reader may take for one piece."""
        self._socket: socket.socket | None = environ.get("gunicorn.socket")
        self._patience = patience
        self._is_done = False

    def __enter__(self) -> Self:
        if self._socket is not None:
            self._socket.settimeout(self._patience)
            # From here on the end of this process is a reset as well.
            self._linger(RESET_ON_CLOSE)
        return self

    def done(self) -> None:
        """The answer is complete: the connection goes on as any other."""
        self._is_done = True
        self._linger(AS_USUAL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is None or self._is_done:
            return
        # gunicorn would say goodbye first, and wait two seconds for the answer in the thread that accepts connections.
        # It finds a socket in this one's place that leads nowhere.
        with socket.socket() as nowhere:
            os.dup2(nowhere.fileno(), self._socket.fileno(), inheritable=False)

    def _linger(self, how: bytes) -> None:
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
