"""Compare the time to load the same new rows into a large table and into an empty one."""

from __future__ import annotations

from functools import partial

from tests.bench.figures import Measured
from tests.bench.large_table import FILLED, coin_count, fill
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
            service.set_worker_count(1)
        for number in range(-1, scale.rounds):
            # Empty the table again in each round. Keep the listings, so that both loads find them.
            empty.database.execute("TRUNCATE quotes, latest_quotes")
            elapsed = {name: seconds[name](number + 1) for name in rotated(list(seconds), number)}
            if number >= 0:  # Round -1 warms up the workers.
                measured.note({"load.growth_10m": elapsed["large"] / elapsed["empty"]})


def _add(service: Service, scale: Scale, number: int) -> float:
    """Load the next hours of all coins. Return the duration of the run in seconds."""
    hours = scale.growth // coin_count(scale)
    batch = Histories(coin_count(scale), hours, since=scale.hours + number * hours)
    service.file.unlink(missing_ok=True)
    batch.write(service.file)
    load = service.load()
    assert load.counters["inserted"] == batch.good, load
    return load.cost.seconds
