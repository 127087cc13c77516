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

# Types of messages. From the client: a statement, the end of a COPY's rows. From the server: ready for the next
# statement, ready for a COPY's rows.
STATEMENTS, RESPONSE_ENDS = b"Qc", b"ZG"


class Wire:
    """A context manager. `wire.url` leads through the proxy to the server of `url`. At first it forwards everything."""

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
        self, at: int, *, since: bytes = b"", answered: bool = False, for_good: bool = False, silent: bool = False
    ) -> None:
        """Break the connection at statement number `at`, and do not forward that statement.

        since: count from the first statement that contains these bytes, on its connection only.
        answered: forward the statement, and withhold the response.
        for_good: also refuse every other connection until heal() is called.
        silent: keep both sides open until the server ends the session by itself.
        """
        self.heal()
        self._left, self._since, self._answered, self._for_good, self._silent = at, since, answered, for_good, silent

    def heal(self) -> None:
        """Forward everything again, and cancel the cut."""
        self._left, self._since, self._answered, self._for_good, self._silent = 0, b"", False, False, False
        self._on: int | None = None
        self.struck = self._down = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # The listener is closed.
                return
            if self._down:
                client.close()
            else:
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server, suppress(OSError):
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            withheld = threading.Event()
            back = threading.Thread(target=_carry_back, args=(server, client, withheld), daemon=True)
            back.start()
            for message in _messages(client, opening=True):
                if self._is_to_be_cut(message):
                    if self._silent:
                        back.join()
                    if not self._answered:
                        break
                    withheld.set()
                server.sendall(message)
            _break(server, client)
            back.join()

    def _is_to_be_cut(self, message: bytes) -> bool:
        if not self._left or message[0] not in STATEMENTS:
            return False
        if self._since and self._since in message:
            self._since, self._on = b"", threading.get_ident()
            return False
        if self._since or self._on not in (None, threading.get_ident()):
            return False
        self._left -= 1
        if not self._left:
            self.struck, self._down = True, self._for_good
        return self.struck


def _carry_back(server: socket.socket, client: socket.socket, withheld: threading.Event) -> None:
    """Forward responses. Read a withheld response to its end, then break both sides."""
    with suppress(OSError):
        for message in _messages(server):
            if not withheld.is_set():
                client.sendall(message)
            elif message[0] in RESPONSE_ENDS:
                break
    _break(server, client)


def _messages(side: socket.socket, *, opening: bool = False) -> Iterator[bytes]:
    """Yield the messages of one side. opening: the first message opens the session and has no type."""
    with side.makefile("rb") as stream:
        typed = 0 if opening else 1
        while len(head := stream.read(typed + 4)) == typed + 4:
            (length,) = struct.unpack("!I", head[-4:])
            yield head + stream.read(length - 4)
            typed = 1


def _break(*sides: socket.socket) -> None:
    for side in sides:
        with suppress(OSError):  # already broken
            side.shutdown(socket.SHUT_RDWR)
