"""Test the proxy in front of an echo server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.processes import until
from tests.proxy import Proxy


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy(f"redis://:a%40b@127.0.0.1:{server.getsockname()[1]}/0?timeout=1") as proxy,
    ):
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        yield proxy


def _echo(server: socket.socket) -> None:
    """Serve each connection in a thread, until the server's socket is closed."""

    def serve(client: socket.socket) -> None:
        with client:
            try:
                while chunk := client.recv(1024):
                    client.sendall(chunk)
            except OSError:
                return

    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(client,), daemon=True).start()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def echoes(client: socket.socket) -> bool:
    client.sendall(b"hello")
    return client.recv(5) == b"hello"


def test_the_proxy_url_is_the_server_url_with_another_port(proxy: Proxy) -> None:
    assert proxy.url == f"redis://:a%40b@127.0.0.1:{proxy.port}/0?timeout=1"
    with connect(proxy) as client:
        assert echoes(client)


def test_a_stalled_connection_stays_dead_and_a_new_one_works_after_healing(proxy: Proxy) -> None:
    with connect(proxy) as before:
        assert echoes(before)
        proxy.stall()
        with connect(proxy) as meanwhile:
            for client in (before, meanwhile):
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    echoes(client)
            proxy.heal()
            for client in (before, meanwhile):
                with pytest.raises(TimeoutError):
                    echoes(client)
        with connect(proxy) as after:
            assert echoes(after)
    # The server's half of the lost connection stays open.
    until(lambda: proxy.open == 1)


def test_a_reset_breaks_open_connections_only(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        assert echoes(client)


def test_the_proxy_refuses_connections_until_it_is_healed(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    with connect(proxy) as client:
        assert echoes(client)


def test_the_proxy_delays_each_chunk_by_its_latency(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.latency = 0.1
        started_at = time.monotonic()
        assert echoes(client)
        assert time.monotonic() - started_at >= 0.2  # The delay applies in both directions.


def test_after_a_half_close_no_response_reaches_the_client(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        proxy.half_close()
        assert client.recv(1) == b""
        client.sendall(b"hello")
        assert client.recv(1) == b""
        assert proxy.open == 1


def test_closing_one_side_closes_the_other(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    until(lambda: proxy.open == 0)
