"""A load generator: asks one URL over and over, on a few connections that are kept. wrk where there is one."""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import statistics
import subprocess
import time
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

WRK = shutil.which("wrk")

WARM_UP = 0.2
"""Seconds."""

MILLISECONDS = {"us": 0.001, "ms": 1, "s": 1000}
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
AT_ONCE = 1024 * 1024
PATIENCE = 30.0


class Asked(NamedTuple):
    """p50: milliseconds from a request to the end of its answer."""

    p50: float
    per_second: float


def ask(url: str, connections: int, seconds: float) -> Asked:
    """Each connection asks anew as soon as it has its answer. Raises AssertionError where one is not 200."""
    by_ourselves(url, connections, WARM_UP)
    if WRK and seconds >= 1:  # it knows only whole seconds
        return _with_wrk(WRK, url, connections, round(seconds))
    return by_ourselves(url, connections, seconds)


def _with_wrk(wrk: str, url: str, connections: int, seconds: int) -> Asked:
    command = [wrk, "--latency", "--threads=1", f"--connections={connections}", f"--duration={seconds}s", url]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in told, f"{url}: {told}"
    [(p50, unit)] = re.findall(r"50%\s+([\d.]+)(us|ms|s)\b", told)
    [per_second] = re.findall(r"Requests/sec:\s+([\d.]+)", told)
    return Asked(float(p50) * MILLISECONDS[unit], float(per_second))


def by_ourselves(url: str, connections: int, seconds: float) -> Asked:
    """In one thread, with as little work for each answer as there can be: the servers have the same cores."""
    with selectors.DefaultSelector() as selector:
        asking = [_Connection(urlsplit(url)) for _ in range(connections)]
        try:
            began = time.perf_counter()
            for connection in asking:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.ask()
            while time.perf_counter() < began + seconds:
                ready = selector.select(PATIENCE)
                assert ready, f"{url}: no answer within {PATIENCE:g} s"
                for key, _ in ready:
                    key.data.read()
            took = time.perf_counter() - began
        finally:
            for connection in asking:
                connection.socket.close()
    times = [seconds for connection in asking for seconds in connection.times]
    assert times, f"{url}: no answer in time"
    return Asked(statistics.median(times) * 1000, len(times) / took)


class _Connection:
    """times: seconds of each answer."""

    def __init__(self, url: SplitResult):
        self.times: list[float] = []
        self._request = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode()
        self._url = url.geturl()
        self.socket = socket.create_connection((url.hostname, url.port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        self._answer = b""
        self._asked_at = time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> None:
        """What has come of the answer; once that is all of it, ask anew."""
        data = self.socket.recv(AT_ONCE)
        assert data, f"{self._url}: hung up"
        self._answer += data
        if self._is_whole():
            self.times.append(time.perf_counter() - self._asked_at)
            self.ask()

    def _is_whole(self) -> bool:
        head, ended, body = self._answer.partition(b"\r\n\r\n")
        if not ended:
            return False
        assert head.startswith(b"HTTP/1.1 200 "), f"{self._url}: {head[:100]!r}"
        [length] = LENGTH.findall(head + b"\r\n")
        return len(body) >= int(length)
