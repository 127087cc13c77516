"""What the same new rows cost in a large table, and in an empty one."""

from __future__ import annotations

from functools import partial

from tests.bench.figures import Measured
from tests.bench.large import FILLED, coins, fill
from tests.bench.rounds import rotated
from tests.bench.sample import Histories
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import Service


def measure_growth(servers: Servers, scale: Scale, measured: Measured) -> None:
    fill(servers, scale)
    with servers.service("large", FILLED) as large, servers.service("empty") as empty:
        seconds = {"large": partial(_add, large, scale), "empty": partial(_add, empty, scale)}
        for service in (large, empty):
            service.work_with(1)
        for number in range(-1, scale.rounds):
            # A second time into the empty table, so that the listings are there in either case.
            empty.database.execute("TRUNCATE quotes, latest_quotes")
            took = {name: seconds[name](number + 1) for name in rotated(list(seconds), number)}
            if number >= 0:  # the one before warms the workers up
                measured.note({"load.growth_10m": took["large"] / took["empty"]})


def _add(service: Service, scale: Scale, number: int) -> float:
    """The seconds of a run that brings the next hours of all coins."""
    hours = scale.growth // coins(scale)
    batch = Histories(coins(scale), hours, since=scale.hours + number * hours)
    service.file.unlink(missing_ok=True)
    batch.write(service.file)
    load = service.load()
    assert load.counters["inserted"] == batch.good, load
    return load.cost.seconds
