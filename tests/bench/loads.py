"""Load the same history with Kasparro, COPY, dlt, SQLAlchemy and marshmallow, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.database import Cost, Database
from tests.bench.figures import Measured
from tests.bench.peers_venv import load_with_dlt
from tests.bench.rounds import rotated
from tests.bench.row_by_row import upsert_each_row, validate_and_copy
from tests.bench.sample import Histories
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import Load, Service

Costs = dict[str, Cost]


@dataclass(frozen=True)
class Setup:
    """The input of all contenders. first, changed: two editions of the file. rows: the first edition in COPY format."""

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
    with _set_up(servers, scale) as setup:
        for number in range(scale.rounds):
            costs: Costs = {}
            for contender in rotated(CONTENDERS, number):
                costs |= contender(setup)
            measured.note(_figures(costs, scale))


@contextmanager
def _set_up(servers: Servers, scale: Scale) -> Iterator[Setup]:
    with servers.service("loads") as service:
        folder = service.folder
        setup = Setup(servers, scale, service, folder / "first.csv", folder / "changed.csv", folder / "rows.tsv")
        scale.file.write(setup.first)
        replace(scale.file, changed=True).write(setup.changed)
        service.set_worker_count(1)
        # This load warms up the worker. Its rows are the input of COPY and other contenders.
        service.use_file(setup.first)
        check_first(service.load(), scale.file, service.database)
        with setup.rows.open("wb") as file:
            service.database.copy_out(file)
        yield setup


def copy(setup: Setup) -> Costs:
    database = setup.database
    database.clear()
    with setup.rows.open("rb") as file, database.cost() as cost:
        database.copy_in(file)
    assert database.value("SELECT count(*) FROM quotes") == setup.scale.file.good
    return {"copy": cost}


def kasparro(setup: Setup) -> Costs:
    service, database, file = setup.service, setup.database, setup.scale.file
    service.use_file(setup.first)
    database.clear()
    first = service.load()
    check_first(first, file, database)
    database.settle()
    content = database.content()
    # Without full_refresh, the worker skips an unchanged file. With it, all rows are read, validated and compared.
    unchanged = service.load(full_refresh=True)
    assert _row_counts(unchanged) == (0, 0, file.good, file.bad), unchanged
    assert database.content() == content, "an unchanged reload changed the data"
    service.use_file(setup.changed)
    changed = service.load()
    assert _row_counts(changed) == (0, file.changes, file.good - file.changes, file.bad), changed
    return {
        "first": first.cost,
        "published": Cost(first.seconds_from_request),
        "unchanged": unchanged.cost,
        "changed": changed.cost,
    }


def check_first(load: Load, file: Histories, database: Database) -> None:
    """Assert that each row of the file became a quote or a reject, and that the tables contain all of them."""
    assert load.counters["fetched"] == file.good + file.bad == file.rows, load
    assert _row_counts(load) == (file.good, 0, 0, file.bad), load
    counts = database.row("SELECT (SELECT count(*) FROM quotes), (SELECT count(*) FROM rejects)")
    assert counts == (file.good, file.bad), f"{counts} quotes and rejects from {file}"


def _row_counts(load: Load) -> tuple[int, ...]:
    return tuple(load.counters[name] for name in ("inserted", "updated", "unchanged", "rejected"))


def dlt(setup: Setup) -> Costs:
    with setup.servers.database("dlt") as database:
        first, unchanged = load_with_dlt(database.url, setup.rows)
    return {"dlt first": first, "dlt unchanged": unchanged}


def sqlalchemy(setup: Setup) -> Costs:
    setup.database.clear()
    return {"sqlalchemy": upsert_each_row(setup.database, setup.rows, setup.scale.row_by_row_count)}


def marshmallow(setup: Setup) -> Costs:
    setup.database.clear()
    return {"marshmallow": validate_and_copy(setup.database, setup.first, setup.scale.row_by_row_count)}


Contender = Callable[[Setup], Costs]
CONTENDERS: Sequence[Contender] = (copy, kasparro, dlt, sqlalchemy, marshmallow)


def _figures(costs: Costs, scale: Scale) -> dict[str, float]:
    """Return the figures of one round. A speed is in good rows per second."""
    row_by_row = ("sqlalchemy", "marshmallow")
    speed = {
        name: (scale.row_by_row_count if name in row_by_row else scale.file.good) / cost.seconds
        for name, cost in costs.items()
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
