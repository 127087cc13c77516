"""The hosts of the fault suite: what a cut link does to packets, and that nothing is left of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket

import pytest

from tests.chaos.hosts import Host, hosts
from tests.chaos.stage import NotRun
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
        print("heard", flush=True)
    except TimeoutError:
        pass
"""


@contextmanager
def made(name: str) -> Iterator[Host]:
    try:
        with hosts([name], ["server"]) as [host]:
            yield host
    except NotRun as why:
        pytest.skip(str(why))


@pytest.fixture
def host() -> Iterator[Host]:
    with made("a") as host:
        yield host


@pytest.fixture
def server(host: Host) -> Iterator[socket]:
    """Gets a question from the host every few milliseconds, over its link."""
    with socket(AF_INET, SOCK_DGRAM) as server:
        server.bind((str(host.links["server"].far), 0))
        server.settimeout(10)
        yield server


@pytest.fixture
def heard(host: Host, server: socket, tmp_path: Path) -> Path:
    """Where the host notes each answer it hears, and why it ended if it did."""
    log = tmp_path / "probe.log"
    address, port = server.getsockname()
    host.run(sys.executable, "-c", PROBE, address, str(port), log=log)
    answer(server)
    until(lambda: "heard" in log.read_text())
    return log


def drain(server: socket) -> None:
    """Read what was on its way."""
    server.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            server.recv(1)


def answer(server: socket) -> None:
    question, host = server.recvfrom(1)
    server.sendto(question, host)


def test_a_cut_link_swallows_all_and_refuses_nothing(host: Host, server: socket, heard: Path) -> None:
    host.links["server"].cut()
    drain(server)
    server.settimeout(0.5)
    with pytest.raises(TimeoutError):
        server.recv(1)
    assert "Error" not in heard.read_text(), "the host was told"

    host.links["server"].heal()
    server.settimeout(10)
    before = heard.read_text().count("heard")
    answer(server)
    until(lambda: heard.read_text().count("heard") > before)


def test_where_answers_are_lost_the_server_hears_and_the_host_does_not(host: Host, server: socket, heard: Path) -> None:
    host.links["server"].lose_answers()
    before = heard.read_text().count("heard")
    for _ in range(20):
        answer(server)
    assert heard.read_text().count("heard") == before


def test_nothing_is_left_of_hosts_whose_test_was_interrupted() -> None:
    assert not interrupted() & names()


def interrupted() -> set[str]:
    """What there was of a host when its user pressed Ctrl-C."""
    with suppress(KeyboardInterrupt), made("b") as host:
        there = {host.namespace, *(link.far_device for link in host.links.values())}
        assert there <= names()
        raise KeyboardInterrupt
    return there


def names() -> set[str]:
    """Of all namespaces and devices that there are."""
    lists = (["ip", "netns", "list"], ["ip", "-brief", "link"])
    lines = [line for it in lists for line in subprocess.check_output(it, text=True).splitlines()]
    return {line.split()[0].partition("@")[0] for line in lines}
