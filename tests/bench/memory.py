"""Measure peak memory: of a worker that loads a large file, and of the API during an export."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import polars
import requests

from devstack.process import family
from tests.bench.database import Database
from tests.bench.figures import Measured, NotMeasured
from tests.bench.large_table import FILLED, fill, hour_at
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import Service

MAX_EXPORT_SECONDS = 600.0
CHUNK_BYTES = 1024 * 1024


def measure_load_memory(servers: Servers, scale: Scale, measured: Measured) -> None:
    with servers.service("memory") as service:
        scale.memory_file.write(service.file)
        service.set_worker_count(1)
        load = service.load()
        assert load.counters["inserted"] == scale.memory_file.good, load
        measured.note({"load.rss_mb": peak_megabytes(service.workers[0].pid)})


def measure_exports(servers: Servers, scale: Scale, measured: Measured) -> None:
    fill(servers, scale)
    since = f"{hour_at(scale.hours - scale.export // scale.listings):%Y-%m-%dT%H:%M:%SZ}"
    peaks = {name: _export(servers, name, count_rows, since) for name, count_rows in FORMATS.items()}
    measured.note({f"export.{name}_rss_mb": value for name, value in peaks.items()})
    measured.note({"export.rss_mb": max(peaks.values())})


def _export(servers: Servers, name: str, count_rows: Callable[[Path], int], since: str) -> float:
    """Return the peak memory of a process that served only this export."""
    with servers.service("exports", FILLED, web_workers=1) as service:
        file = service.folder / f"export.{name}"
        _download(service, f"{service.web.url}/data?format={name}&observed_from={since}", file)
        expected, exported = _count(service.database, since), count_rows(file)
        assert exported == expected, f"format={name} has {exported} of {expected} rows"
        return peak_megabytes(service.web.pid)


def _download(service: Service, url: str, file: Path) -> None:
    with requests.get(url, stream=True, timeout=MAX_EXPORT_SECONDS) as response, file.open("wb") as output:
        if not response.ok:
            raise NotMeasured(f"{url.removeprefix(service.web.url)} returned {response.status_code}")
        for chunk in response.iter_content(CHUNK_BYTES):
            output.write(chunk)


def _count(database: Database, since: str) -> int:
    return int(database.value("SELECT count(*) FROM quotes WHERE observed_at >= %(since)s", since=since))


def _count_ndjson(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def _count_parquet(file: Path) -> int:
    return int(polars.scan_parquet(file).select(polars.len()).collect().item())


FORMATS: Mapping[str, Callable[[Path], int]] = {"parquet": _count_parquet, "ndjson": _count_ndjson}


def peak_megabytes(pid: int) -> float:
    """Return the peak memory of a process or of one of its children, in megabytes."""
    files = [Path(f"/proc/{process.pid}/status") for process in family(pid)]
    if not all(status.exists() for status in files):
        raise NotMeasured("only Linux reports the peak memory of a process")
    return max(int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) for status in files) / 1024
