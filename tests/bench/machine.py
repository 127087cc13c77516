"""The machine that the figures are of: each is a ratio, but not every machine has the same."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil

from tests.bench.servers import Servers

GIB = 2**30


def describe(servers: Servers) -> str:
    memory = psutil.virtual_memory().total / GIB
    return (
        f"{_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB; "
        f"{platform.system()} {platform.release()}; Postgres {servers.version}, "
        f"Python {platform.python_version()}"
    )


def _processor() -> str:
    """As Linux names it; the architecture where nobody does."""
    told = Path("/proc/cpuinfo")
    for line in told.read_text().splitlines() if told.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
