"""Proxy a Postgres connection, and cut it at a statement that a test chooses, before or after its execution."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from sqlalchemy import make_url

# Message types. From the client: a statement (Q), or the end of a COPY's rows (c). From the server: it is ready for the
# next statement (Z), or for a COPY's rows (G).
STATEMENTS, RESPONSE_ENDS = b"Qc", b"ZG"


class Wire:
    """A proxy in front of the Postgres at `url`, as a context manager. `wire.url` is the URL of the proxy.

    It forwards everything until cut() is called.
    """

    def __init__(self, url: str):
        direct = make_url(url)
        self._server = direct.host or "127.0.0.1", direct.port or 5432
        self._listener = socket.create_server(("127.0.0.1", 0))
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        through = direct.set(host="127.0.0.1", port=self._listener.getsockname()[1]).update_query_dict(plain)
        self.url: str = through.render_as_string(hide_password=False)
        self.heal()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # macOS refuses to shut a listening socket down.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(
        self,
        at: int,
        *,
        since: bytes = b"",
        withhold_response: bool = False,
        refuse_others: bool = False,
        silent: bool = False,
    ) -> None:
        """Break the connection at statement number `at`, and do not forward that statement.

        since: count only the statements after the first one that contains these bytes, on the same connection.
        withhold_response: forward the statement, but not its response.
        refuse_others: also refuse new connections until heal() is called.
        silent: keep both sides open until the server ends the session by itself.
        """
        self.heal()
        self._remaining, self._since, self._silent = at, since, silent
        self._withhold_response, self._refuse_others = withhold_response, refuse_others

    def heal(self) -> None:
        """Forward everything again, and cancel the cut."""
        self._remaining, self._since, self._silent = 0, b"", False
        self._withhold_response = self._refuse_others = False
        self._thread: int | None = None
        self.struck = self._is_refusing = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # The listener is closed.
                return
            if self._is_refusing:
                client.close()
            else:
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server, suppress(OSError):
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            withheld = threading.Event()
            responses = threading.Thread(target=_forward_responses, args=(server, client, withheld), daemon=True)
            responses.start()
            for message in _messages(client, opening=True):
                if self._is_to_be_cut(message):
                    if self._silent:
                        responses.join()
                    if not self._withhold_response:
                        break
                    withheld.set()
                server.sendall(message)
            _break(server, client)
            responses.join()

    def _is_to_be_cut(self, message: bytes) -> bool:
        if not self._remaining or message[0] not in STATEMENTS:
            return False
        if self._since and self._since in message:
            self._since, self._thread = b"", threading.get_ident()
            return False
        if self._since or self._thread not in (None, threading.get_ident()):
            return False
        self._remaining -= 1
        if not self._remaining:
            self.struck, self._is_refusing = True, self._refuse_others
        return self.struck


def _forward_responses(server: socket.socket, client: socket.socket, withheld: threading.Event) -> None:
    """Forward responses. Read a withheld response to its end, then break both sides."""
    with suppress(OSError):
        for message in _messages(server):
            if not withheld.is_set():
                client.sendall(message)
            elif message[0] in RESPONSE_ENDS:
                break
    _break(server, client)


def _messages(side: socket.socket, *, opening: bool = False) -> Iterator[bytes]:
    """Yield the messages of one side.

    opening: the first message opens the session and has no type.
    """
    with side.makefile("rb") as stream:
        type_bytes = 0 if opening else 1
        while len(head := stream.read(type_bytes + 4)) == type_bytes + 4:
            (length,) = struct.unpack("!I", head[-4:])
            yield head + stream.read(length - 4)
            type_bytes = 1


def _break(*sides: socket.socket) -> None:
    for side in sides:
        with suppress(OSError):  # Already broken.
            side.shutdown(socket.SHUT_RDWR)
