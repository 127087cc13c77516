"""The most memory that processes took: of a worker that loads a large file, of the API while it exports."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import polars
import requests

from devstack.process import family
from tests.bench.database import Database
from tests.bench.figures import Measured, NotMeasured
from tests.bench.large import FILLED, at, fill
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import Service

LONGEST_EXPORT = 600.0
CHUNK = 1024 * 1024


def measure_load_memory(servers: Servers, scale: Scale, measured: Measured) -> None:
    with servers.service("memory") as service:
        scale.memory_file.write(service.file)
        service.work_with(1)
        load = service.load()
        assert load.counters["inserted"] == scale.memory_file.good, load
        measured.note({"load.rss_mb": peak(service.workers[0].pid)})


def measure_exports(servers: Servers, scale: Scale, measured: Measured) -> None:
    fill(servers, scale)
    since = f"{at(scale.hours - scale.export // scale.listings):%Y-%m-%dT%H:%M:%SZ}"
    peaks = {name: _export(servers, name, rows_of, since) for name, rows_of in FORMATS.items()}
    measured.note({f"export.{name}_rss_mb": value for name, value in peaks.items()})
    measured.note({"export.rss_mb": max(peaks.values())})


def _export(servers: Servers, name: str, rows_of: Callable[[Path], int], since: str) -> float:
    """The peak of a process that has done nothing else."""
    with servers.service("exports", FILLED, web_workers=1) as service:
        file = service.folder / f"export.{name}"
        _download(service, f"{service.web.url}/data?format={name}&observed_from={since}", file)
        there, exported = _count(service.database, since), rows_of(file)
        assert exported == there, f"format={name} has {exported} of {there} rows"
        return peak(service.web.pid)


def _download(service: Service, url: str, file: Path) -> None:
    with requests.get(url, stream=True, timeout=LONGEST_EXPORT) as answer, file.open("wb") as kept:
        if not answer.ok:
            raise NotMeasured(f"{url.removeprefix(service.web.url)} is answered with {answer.status_code}")
        for chunk in answer.iter_content(CHUNK):
            kept.write(chunk)


def _count(database: Database, since: str) -> int:
    return int(database.value("SELECT count(*) FROM quotes WHERE observed_at >= %(since)s", since=since))


def _rows_of_ndjson(file: Path) -> int:
    """Those lines that are quotes: what else there is only says that the file is whole."""
    with file.open("rb") as lines:
        return sum(b'"observed_at"' in line for line in lines)


def _rows_of_parquet(file: Path) -> int:
    return int(polars.scan_parquet(file).select(polars.len()).collect().item())


FORMATS: Mapping[str, Callable[[Path], int]] = {"parquet": _rows_of_parquet, "ndjson": _rows_of_ndjson}


def peak(pid: int) -> float:
    """Megabytes that a process, or one of those it forked, ever had in memory at once."""
    told = [Path(f"/proc/{process.pid}/status") for process in family(pid)]
    if not all(status.exists() for status in told):
        raise NotMeasured("only Linux says what a process took at the most")
    return max(int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) for status in told) / 1024
