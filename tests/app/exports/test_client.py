"""Test that an incomplete response resets the connection, and that a client that stops reading is timed out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.exports.client import ClientConnection

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def connection() -> Iterator[Ends]:
    """Yield the two ends of a TCP connection: the server's and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.settimeout(10)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with closing(server):
            yield server, client


def test_a_complete_response_closes_the_connection_normally(connection: Ends) -> None:
    server, client = connection
    with ClientConnection({"gunicorn.socket": server}, patience=5) as guarded:
        server.sendall(b"all")
        guarded.mark_complete()
    server.close()
    assert client.recv(10) == b"all"
    assert client.recv(10) == b""


def test_an_incomplete_response_resets_the_connection(connection: Ends) -> None:
    server, client = connection
    with ClientConnection({"gunicorn.socket": server}, patience=5):
        pass
    with pytest.raises(ConnectionResetError):
        client.recv(10)


def test_a_failed_response_resets_the_connection_and_raises(connection: Ends) -> None:
    server, client = connection
    with pytest.raises(LookupError), ClientConnection({"gunicorn.socket": server}, patience=5):
        raise LookupError
    with pytest.raises(ConnectionResetError):
        client.recv(10)


def test_a_client_that_reads_nothing_is_timed_out(connection: Ends) -> None:
    server, _ = connection
    with pytest.raises(TimeoutError), ClientConnection({"gunicorn.socket": server}, patience=0.05):
        server.sendall(b"x" * 50_000_000)
