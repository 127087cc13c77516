"""Test that a cut link drops packets silently, and that hosts are deleted completely."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket

import pytest

from tests.chaos.hosts import Host, hosts
from tests.chaos.registry import NotRun
from tests.processes import until

PROBE = """
import socket, sys
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((sys.argv[1], int(sys.argv[2])))
probe.settimeout(0.02)
while True:
    probe.send(b"?")
    try:
        probe.recv(1)
        print("received", flush=True)
    except TimeoutError:
        pass
"""


@contextmanager
def created(name: str) -> Iterator[Host]:
    try:
        with hosts([name], ["server"]) as [host]:
            yield host
    except NotRun as reason:
        pytest.skip(str(reason))


@pytest.fixture
def host() -> Iterator[Host]:
    with created("a") as host:
        yield host


@pytest.fixture
def server(host: Host) -> Iterator[socket]:
    """Yield a socket that receives a request from the host over its link every few milliseconds."""
    with socket(AF_INET, SOCK_DGRAM) as server:
        server.bind((str(host.links["server"].far), 0))
        server.settimeout(10)
        yield server


@pytest.fixture
def probe_log(host: Host, server: socket, tmp_path: Path) -> Path:
    """Return the log file where the host's probe records each response and error."""
    log = tmp_path / "probe.log"
    address, port = server.getsockname()
    host.run(sys.executable, "-c", PROBE, address, str(port), log=log)
    respond(server)
    until(lambda: "received" in log.read_text())
    return log


def drain(server: socket) -> None:
    """Discard the requests that have already arrived."""
    server.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            server.recv(1)


def respond(server: socket) -> None:
    request, host = server.recvfrom(1)
    server.sendto(request, host)


def test_a_cut_link_drops_all_packets_without_refusing_connections(host: Host, server: socket, probe_log: Path) -> None:
    host.links["server"].cut()
    drain(server)
    server.settimeout(0.5)
    with pytest.raises(TimeoutError):
        server.recv(1)
    assert "Error" not in probe_log.read_text(), "the host was notified"

    host.links["server"].heal()
    server.settimeout(10)
    before = probe_log.read_text().count("received")
    respond(server)
    until(lambda: probe_log.read_text().count("received") > before)


def test_with_dropped_responses_only_the_server_receives(host: Host, server: socket, probe_log: Path) -> None:
    host.links["server"].drop_responses()
    before = probe_log.read_text().count("received")
    for _ in range(20):
        respond(server)
    assert probe_log.read_text().count("received") == before


def test_hosts_of_an_interrupted_test_are_deleted() -> None:
    assert not interrupted_names() & existing_names()


def interrupted_names() -> set[str]:
    """Interrupt a test as Ctrl-C does. Return the namespace and devices that its host had."""
    with suppress(KeyboardInterrupt), created("b") as host:
        names = {host.namespace, *(link.far_device for link in host.links.values())}
        assert names <= existing_names()
        raise KeyboardInterrupt
    return names


def existing_names() -> set[str]:
    """Return the names of all existing namespaces and devices."""
    commands = (["ip", "netns", "list"], ["ip", "-brief", "link"])
    lines = [line for command in commands for line in subprocess.check_output(command, text=True).splitlines()]
    return {line.split()[0].partition("@")[0] for line in lines}
