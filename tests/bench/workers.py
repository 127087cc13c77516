"""Measure the gain of a second worker on one file, and of a second COPY of the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

from tests.bench.database import Database
from tests.bench.figures import Measured
from tests.bench.loads import check_first
from tests.bench.rounds import rotated
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import Service


def measure_workers(servers: Servers, scale: Scale, measured: Measured) -> None:
    with servers.service("workers") as service:
        whole, halves = _files(service, scale)
        contenders: Mapping[str, Callable[[], float]] = {
            "one worker": partial(_load, service, scale, 1),
            "two workers": partial(_load, service, scale, 2),
            "one copy": partial(_copy, service.database, [whole]),
            "two copies": partial(_copy, service.database, halves),
        }
        for number in range(scale.rounds):
            seconds = {name: contenders[name]() for name in rotated(list(contenders), number)}
            workers = seconds["one worker"] / seconds["two workers"]
            copies = seconds["one copy"] / seconds["two copies"]
            measured.note(
                {
                    "load.two_workers": workers,
                    "load.two_copies": copies,
                    "load.two_workers_vs_copies": workers / copies,
                }
            )


def _files(service: Service, scale: Scale) -> tuple[Path, list[Path]]:
    """Write the service's CSV file. Return its rows in COPY format: all of them, and in two halves."""
    scale.long_file.write(service.file)
    _load(service, scale, 1)
    whole = service.folder / "rows.tsv"
    with whole.open("wb") as file:
        service.database.copy_out(file)
    halves = [service.folder / "first-half.tsv", service.folder / "second-half.tsv"]
    with whole.open("rb") as rows:
        for half in halves:
            with half.open("wb") as file:
                file.writelines(islice(rows, -(-scale.long_file.good // 2)))
    return whole, halves


def _load(service: Service, scale: Scale, workers: int) -> float:
    service.set_worker_count(workers)
    service.database.clear()
    load = service.load()
    check_first(load, scale.long_file, service.database)
    return load.cost.seconds


def _copy(database: Database, files: list[Path]) -> float:
    database.clear()
    with database.cost() as cost, ThreadPoolExecutor() as pool:
        list(pool.map(partial(_copy_file, database.url), files))
    return cost.seconds


def _copy_file(url: str, rows: Path) -> None:
    with closing(Database(url)) as database, rows.open("rb") as file:
        database.copy_in(file)
