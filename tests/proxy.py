"""Proxy TCP connections on loopback, and let tests stall, reset or refuse them."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
OPERATION_TIMEOUT = 10


@dataclass(eq=False)
class _Connection:
    """One connection through the proxy.

    lost: the proxy discarded some bytes, so it forwards nothing on this connection, even after heal().
    """

    client: StreamWriter
    server: StreamWriter | None = None
    lost: bool = False

    @property
    def sides(self) -> list[StreamWriter]:
        return [self.client] if self.server is None else [self.client, self.server]

    def abort(self) -> None:
        for side in self.sides:
            with suppress(OSError):  # already closed
                side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            side.transport.abort()


class Proxy:
    """A proxy in front of the server at `url`. `proxy.url` is the URL of the proxy. Its methods are thread-safe.

    It forwards everything until a method disturbs it, and again after heal().

    latency: the delay of each chunk in seconds.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._target = parts.hostname or "127.0.0.1", parts.port
        # Bind without listening, so that no other program gets the port while connections are refused.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        login, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()
        self.latency = 0.0
        self._stalled = False
        self._listener: asyncio.Server | None = None
        self._connections: list[_Connection] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(OPERATION_TIMEOUT)
        self._loop.close()
        self._reserved.close()

    def heal(self) -> None:
        """Forward everything again. Connections that lost bytes stay dead."""
        self._do(self._heal())

    def switch(self, url: str) -> None:
        """Break every connection, and forward new ones to the server at `url`, as after a failover."""
        parts = urlsplit(url)
        self._target = parts.hostname or "127.0.0.1", parts.port
        self.reset()

    def stall(self) -> None:
        """Discard all bytes in both directions. New connections are accepted and get no response, as if half-open."""
        self._stalled = True

    def reset(self) -> None:
        """Break every connection with a RST. New connections work."""
        self._do(self._reset())

    def refuse(self) -> None:
        """Break every connection, and refuse new ones."""
        self._do(self._refuse())

    def half_close(self) -> None:
        """End the stream to every client. The server still receives data from the clients."""
        self._do(self._half_close())

    @property
    def open(self) -> int:
        """Return the number of connections, including lost ones."""
        return len(self._connections)

    def _do(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(OPERATION_TIMEOUT)

    async def _heal(self) -> None:
        self._stalled = False
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_port=True)

    async def _reset(self) -> None:
        # Always reset the newest first, since the order affects some clients.
        for connection in reversed(self._connections):
            connection.abort()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._reset()

    async def _half_close(self) -> None:
        for connection in self._connections:
            if not connection.client.is_closing():
                connection.client.write_eof()

    async def _end(self) -> None:
        await self._refuse()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: StreamReader, client: StreamWriter) -> None:
        connection = _Connection(client, lost=self._stalled)
        self._connections.append(connection)
        try:
            if connection.lost:
                await self._forward(connection, reader, None)
            else:
                from_server, connection.server = await asyncio.open_connection(*self._target)
                await asyncio.gather(
                    self._forward(connection, reader, connection.server),
                    self._forward(connection, from_server, client),
                )
        except (OSError, asyncio.CancelledError):  # The server refused, or one side broke, so break the other.
            connection.abort()
        finally:
            self._connections.remove(connection)
            for side in connection.sides:
                side.close()

    async def _forward(self, connection: _Connection, reader: StreamReader, writer: StreamWriter | None) -> None:
        while True:
            try:
                chunk = await reader.read(65536)
            except ConnectionError:
                connection.lost |= self._stalled
                if connection.lost:  # Keep the other side of a lost connection open.
                    return
                raise
            if self.latency:
                await asyncio.sleep(self.latency)
            connection.lost |= self._stalled
            if writer is not None and not connection.lost:
                await _forward_chunk(chunk, writer)
            if not chunk:
                return


async def _forward_chunk(chunk: bytes, writer: StreamWriter) -> None:
    """Forward a chunk. An empty chunk ends the stream. After half_close(), send nothing to the client."""
    with suppress(RuntimeError):
        if chunk:
            writer.write(chunk)
            await writer.drain()
        else:
            writer.write_eof()
