"""Generate load: request one URL repeatedly on a few persistent connections, with wrk where it is installed."""

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

WARM_UP_SECONDS = 0.2

MILLISECONDS = {"us": 0.001, "ms": 1, "s": 1000}
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CHUNK_BYTES = 1024 * 1024
RESPONSE_TIMEOUT = 30.0


class ReadStats(NamedTuple):
    """p50: median milliseconds from a request to the end of its response. per_second: requests per second."""

    p50: float
    per_second: float


def measure_url(url: str, connections: int, seconds: float) -> ReadStats:
    """Measure a URL on connections that always have one open request. Raise AssertionError if a status is not 200."""
    measure_in_python(url, connections, WARM_UP_SECONDS)
    if WRK and seconds >= 1:  # wrk accepts only whole seconds.
        return _with_wrk(WRK, url, connections, round(seconds))
    return measure_in_python(url, connections, seconds)


def _with_wrk(wrk: str, url: str, connections: int, seconds: int) -> ReadStats:
    command = [wrk, "--latency", "--threads=1", f"--connections={connections}", f"--duration={seconds}s", url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in output, f"{url}: {output}"
    [(p50, unit)] = re.findall(r"50%\s+([\d.]+)(us|ms|s)\b", output)
    [per_second] = re.findall(r"Requests/sec:\s+([\d.]+)", output)
    return ReadStats(float(p50) * MILLISECONDS[unit], float(per_second))


def measure_in_python(url: str, connections: int, seconds: float) -> ReadStats:
    """Measure a URL in one thread, with minimal work for each response, since the servers share the cores."""
    with selectors.DefaultSelector() as selector:
        clients = [_Connection(urlsplit(url)) for _ in range(connections)]
        try:
            started_at = time.perf_counter()
            for connection in clients:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send_request()
            while time.perf_counter() < started_at + seconds:
                ready = selector.select(RESPONSE_TIMEOUT)
                assert ready, f"{url}: no response within {RESPONSE_TIMEOUT:g} s"
                for key, _ in ready:
                    key.data.read()
            elapsed = time.perf_counter() - started_at
        finally:
            for connection in clients:
                connection.socket.close()
    times = [seconds for connection in clients for seconds in connection.times]
    assert times, f"{url}: no complete response"
    return ReadStats(statistics.median(times) * 1000, len(times) / elapsed)


class _Connection:
    """A connection. times: the duration of each response in seconds."""

    def __init__(self, url: SplitResult):
        self.times: list[float] = []
        self._request = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode()
        self._url = url.geturl()
        self.socket = socket.create_connection((url.hostname, url.port), timeout=RESPONSE_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_request(self) -> None:
        self._response = b""
        self._sent_at = time.perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> None:
        """Read the available part of the response. Once it is complete, send the next request."""
        data = self.socket.recv(CHUNK_BYTES)
        assert data, f"{self._url}: the server closed the connection"
        self._response += data
        if self._is_complete():
            self.times.append(time.perf_counter() - self._sent_at)
            self.send_request()

    def _is_complete(self) -> bool:
        head, separator, body = self._response.partition(b"\r\n\r\n")
        if not separator:
            return False
        assert head.startswith(b"HTTP/1.1 200 "), f"{self._url}: {head[:100]!r}"
        [length] = LENGTH.findall(head + b"\r\n")
        return len(body) >= int(length)
