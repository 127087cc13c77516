"""Guard the client connection of an export: time out a slow client, and reset the connection if the export fails."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

RESET_ON_CLOSE, CLOSE_NORMALLY = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


class ClientConnection:
    """A context manager for one export. Exiting it before `mark_complete` resets the connection.

    A normal close is not enough. Proxies use HTTP/1.0 for the servers behind them, where a normal close means that the
    response is complete. Without gunicorn's socket, as in Flask's test client, this class does nothing.
    """

    def __init__(self, environ: Mapping[str, Any], patience: float):
        """patience: maximum seconds that the client may take for one piece."""
        self._socket: socket.socket | None = environ.get("gunicorn.socket")
        self._patience = patience
        self._is_complete = False

    def __enter__(self) -> Self:
        if self._socket is not None:
            self._socket.settimeout(self._patience)
            # From now on, killing the process also resets the connection.
            self._linger(RESET_ON_CLOSE)
        return self

    def mark_complete(self) -> None:
        """Mark the response as complete, so that the connection closes normally or serves the next request."""
        self._is_complete = True
        self._linger(CLOSE_NORMALLY)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is None or self._is_complete:
            return
        # gunicorn would first shut the socket down normally, and block the accepting thread for two seconds.
        # Replacing the descriptor's socket with an unconnected one closes the original immediately.
        with socket.socket() as unconnected:
            os.dup2(unconnected.fileno(), self._socket.fileno(), inheritable=False)

    def _linger(self, option: bytes) -> None:
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
