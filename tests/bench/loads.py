"""Loading the same history by Kasparro, by a bare COPY, by dlt, and one by one, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.database import Cost, Database
from tests.bench.figures import Measured
from tests.bench.one_by_one import judge_and_copy, upsert_each
from tests.bench.peers_venv import load_with_dlt
from tests.bench.rounds import rotated
from tests.bench.sample import Histories
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import Load, Service

Costs = dict[str, Cost]


@dataclass(frozen=True)
class Stage:
    """first, changed: the two editions of the file; rows: of the first, as COPY takes them."""

    servers: Servers
    scale: Scale
    service: Service
    first: Path
    changed: Path
    rows: Path

    @property
    def database(self) -> Database:
        return self.service.database


def measure_loads(servers: Servers, scale: Scale, measured: Measured) -> None:
    with _stage(servers, scale) as stage:
        for number in range(scale.rounds):
            costs: Costs = {}
            for contender in rotated(CONTENDERS, number):
                costs |= contender(stage)
            measured.note(_figures(costs, scale))


@contextmanager
def _stage(servers: Servers, scale: Scale) -> Iterator[Stage]:
    with servers.service("loads") as service:
        folder = service.folder
        stage = Stage(servers, scale, service, folder / "first.csv", folder / "changed.csv", folder / "rows.tsv")
        scale.file.write(stage.first)
        replace(scale.file, changed=True).write(stage.changed)
        service.work_with(1)
        # The first load of all warms the worker up, and gives COPY and the others the very rows that it made.
        service.place(stage.first)
        check_first(service.load(), scale.file, service.database)
        with stage.rows.open("wb") as file:
            service.database.copy_out(file)
        yield stage


def copy(stage: Stage) -> Costs:
    database = stage.database
    database.clear()
    with stage.rows.open("rb") as file, database.cost() as cost:
        database.copy_in(file)
    assert database.value("SELECT count(*) FROM quotes") == stage.scale.file.good
    return {"copy": cost}


def kasparro(stage: Stage) -> Costs:
    service, database, file = stage.service, stage.database, stage.scale.file
    service.place(stage.first)
    database.clear()
    first = service.load()
    check_first(first, file, database)
    database.settle()
    content = database.content()
    # A file that its checkpoint knows is not even read; with full_refresh all of it is, and judged, and compared.
    unchanged = service.load(full_refresh=True)
    assert _became(unchanged) == (0, 0, file.good, file.bad), unchanged
    assert database.content() == content, "a second load changed something"
    service.place(stage.changed)
    changed = service.load()
    assert _became(changed) == (0, file.changes, file.good - file.changes, file.bad), changed
    return {
        "first": first.cost,
        "published": Cost(first.published),
        "unchanged": unchanged.cost,
        "changed": changed.cost,
    }


def check_first(load: Load, file: Histories, database: Database) -> None:
    """Good and rejected are all that the file has, and the tables hold what the run says."""
    assert load.counters["fetched"] == file.good + file.bad == file.rows, load
    assert _became(load) == (file.good, 0, 0, file.bad), load
    held = database.row("SELECT (SELECT count(*) FROM quotes), (SELECT count(*) FROM rejects)")
    assert held == (file.good, file.bad), f"{held} quotes and rejects are there of {file}"


def _became(load: Load) -> tuple[int, ...]:
    return tuple(load.counters[name] for name in ("inserted", "updated", "unchanged", "rejected"))


def dlt(stage: Stage) -> Costs:
    with stage.servers.database("dlt") as database:
        first, unchanged = load_with_dlt(database.url, stage.rows)
    return {"dlt first": first, "dlt unchanged": unchanged}


def sqlalchemy(stage: Stage) -> Costs:
    stage.database.clear()
    return {"sqlalchemy": upsert_each(stage.database, stage.rows, stage.scale.one_by_one)}


def marshmallow(stage: Stage) -> Costs:
    stage.database.clear()
    return {"marshmallow": judge_and_copy(stage.database, stage.first, stage.scale.one_by_one)}


Contender = Callable[[Stage], Costs]
CONTENDERS: Sequence[Contender] = (copy, kasparro, dlt, sqlalchemy, marshmallow)


def _figures(costs: Costs, scale: Scale) -> dict[str, float]:
    """Of one round; speeds in good rows a second."""
    few = ("sqlalchemy", "marshmallow")
    speed = {
        name: (scale.one_by_one if name in few else scale.file.good) / cost.seconds for name, cost in costs.items()
    }
    return {
        "load.first_vs_copy": speed["first"] / speed["copy"],
        "load.unchanged_vs_copy": speed["unchanged"] / speed["copy"],
        "load.changed_vs_copy": speed["changed"] / speed["copy"],
        "load.first_vs_dlt": speed["first"] / speed["dlt first"],
        "load.unchanged_vs_dlt": speed["unchanged"] / speed["dlt unchanged"],
        "load.vs_sqlalchemy": speed["first"] / speed["sqlalchemy"],
        "load.vs_marshmallow": speed["first"] / speed["marshmallow"],
        "load.unchanged_wal_share": costs["unchanged"].wal / costs["first"].wal,
        "load.published_overhead_s": costs["published"].seconds - costs["first"].seconds,
        "load.copy_rows_s": speed["copy"],
        "load.first_rows_s": speed["first"],
        "load.unchanged_rows_s": speed["unchanged"],
        "load.changed_rows_s": speed["changed"],
        "load.dlt_first_rows_s": speed["dlt first"],
        "load.dlt_unchanged_rows_s": speed["dlt unchanged"],
        "load.sqlalchemy_rows_s": speed["sqlalchemy"],
        "load.marshmallow_rows_s": speed["marshmallow"],
    }
