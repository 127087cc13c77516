"""Describe the machine that produced the figures, since ratios differ between machines."""

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
    """Return the processor's name on Linux, or the architecture elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
