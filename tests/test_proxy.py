"""The proxy that loses packets for other tests, with a server that sends back what it hears."""

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
        Proxy(f"redis://:a%40b@127.0.0.1:{server.getsockname()[1]}/0?timeout=1") as it,
    ):
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        yield it


def _echo(server: socket.socket) -> None:
    """One thread for each connection; ends with the server's socket."""

    def serve(client: socket.socket) -> None:
        with client:
            try:
                while heard := client.recv(1024):
                    client.sendall(heard)
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


def test_its_url_is_the_servers_through_the_proxy(proxy: Proxy) -> None:
    assert proxy.url == f"redis://:a%40b@127.0.0.1:{proxy.port}/0?timeout=1"
    with connect(proxy) as client:
        assert echoes(client)


def test_a_stalled_connection_stays_dead_and_a_new_one_works_once_it_is_healed(proxy: Proxy) -> None:
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
    # The server was never told that its half of the lost one is gone.
    until(lambda: proxy.open == 1)


def test_a_reset_breaks_what_is_open_and_nothing_else(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        assert echoes(client)


def test_it_refuses_until_it_is_healed(proxy: Proxy) -> None:
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


def test_it_keeps_each_chunk_back_for_as_long_as_it_is_told(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.latency = 0.1
        began = time.monotonic()
        assert echoes(client)
        assert time.monotonic() - began >= 0.2  # there and back


def test_after_a_half_close_the_server_hears_what_nobody_answers(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        proxy.half_close()
        assert client.recv(1) == b""
        client.sendall(b"hello")
        assert client.recv(1) == b""
        assert proxy.open == 1


def test_what_one_side_ends_ends_for_the_other(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert echoes(client)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    until(lambda: proxy.open == 0)
