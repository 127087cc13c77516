"""Guard the connection to the client of an export: time out a slow client, and reset it if the export fails."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

RESET_ON_CLOSE, CLOSE_NORMALLY = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


class ClientConnection:
    """A context manager around an export: leaving it before `mark_complete` resets the connection.

    An orderly close would not do. Proxies speak HTTP/1.0 to the servers behind them, where an orderly close means that
    the response is complete. Without gunicorn's socket, as in Flask's test client, it does nothing.
    """

    def __init__(self, environ: Mapping[str, Any], patience: float):
        """patience: maximum seconds that the client may take for one piece."""
        self._socket: socket.socket | None = environ.get("gunicorn.socket")
        self._patience = patience
        self._is_complete = False

    def __enter__(self) -> Self:
        if self._socket is not None:
            self._socket.settimeout(self._patience)
            # From here on, a killed process resets the connection as well.
            self._linger(RESET_ON_CLOSE)
        return self

    def mark_complete(self) -> None:
        """Let the connection close normally, or serve the next request: the response is complete."""
        self._is_complete = True
        self._linger(CLOSE_NORMALLY)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is None or self._is_complete:
            return
        # gunicorn would shut the socket down in an orderly way first, and block the accepting thread for two seconds.
        # Replace the socket under its descriptor by an unconnected one, which closes the original at once.
        with socket.socket() as unconnected:
            os.dup2(unconnected.fileno(), self._socket.fileno(), inheritable=False)

    def _linger(self, option: bytes) -> None:
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
