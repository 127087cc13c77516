"""What is measured: each figure's name, what it says, what it should be, and its values over the rounds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class NotMeasured(Exception):
    """This machine, or the service as it is, does not let a figure be measured; the message says why."""


@dataclass(frozen=True)
class Figure:
    """least, most: the target. Without one it is there to be known."""

    key: str
    about: str
    least: float | None = None
    most: float | None = None

    @property
    def target(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}" if self.most is not None else ""

    def is_met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


FIGURES = (
    Figure("load.first_vs_copy", "rows/s of a first load, of a bare COPY's", least=0.75),
    Figure("load.unchanged_vs_copy", "rows/s of loading the same again, of a bare COPY's", least=1.3),
    Figure("load.changed_vs_copy", "rows/s where one row in ten has changed, of a bare COPY's"),
    Figure("load.first_vs_dlt", "rows/s of a first load, of dlt's", least=1.3),
    Figure("load.unchanged_vs_dlt", "rows/s of loading the same again, of dlt's", least=3),
    Figure("load.vs_sqlalchemy", "rows/s of a first load, of a row-wise SQLAlchemy upsert's", least=10),
    Figure("load.vs_marshmallow", "rows/s of a first load, of marshmallow's on every row"),
    Figure("load.unchanged_wal_share", "WAL of loading the same again, of the first load's", most=0.05),
    Figure("load.published_overhead_s", "seconds from POST /runs to the end of a first load, beyond the run's own"),
    Figure("load.copy_rows_s", "rows/s of a bare COPY"),
    Figure("load.first_rows_s", "rows/s of a first load"),
    Figure("load.unchanged_rows_s", "rows/s of loading the same again"),
    Figure("load.changed_rows_s", "rows/s where one row in ten has changed"),
    Figure("load.dlt_first_rows_s", "rows/s of dlt's first load"),
    Figure("load.dlt_unchanged_rows_s", "rows/s of dlt's loading the same again"),
    Figure("load.sqlalchemy_rows_s", "rows/s of a row-wise SQLAlchemy upsert"),
    Figure("load.marshmallow_rows_s", "rows/s with marshmallow on every row"),
    Figure("load.two_workers", "rows/s of two workers on one file, of one's", least=1.3),
    Figure("load.two_copies", "rows/s of two bare COPYs of the halves, of one's of the whole"),
    Figure("load.two_workers_vs_copies", "the gain of two workers, of that of two COPYs", least=0.9),
    Figure("load.rss_mb", "most memory of a worker process while it loads a large file, MB", most=300),
    Figure("load.growth_10m", "seconds of new rows for a large table, of the same rows into an empty one", most=1.35),
    Figure("read.again_p50_vs_hello", "p50 of /data?limit=100 asked for again, of a bare Flask hello's", most=3.5),
    Figure("read.page_p50_vs_hello", "p50 of that page where no answer is kept, of a hello's", most=3.5),
    Figure("read.again_throughput_vs_fastapi", "requests/s of the page asked for again, of FastAPI's", least=1.3),
    Figure(
        "read.throughput_vs_fastapi", "requests/s where no answer is kept, of FastAPI + asyncpg + orjson's", least=1.3
    ),
    Figure("read.again_p50_vs_fastapi", "p50 of the page asked for again, of FastAPI's"),
    Figure("read.p50_vs_fastapi", "p50 where no answer is kept, of FastAPI's"),
    Figure("read.deep_vs_first", "p50 of the page half-way through the table, of the first page's", most=1.5),
    Figure("read.latest_vs_first", "p50 of /data/latest?limit=100, of the first page's", most=2),
    Figure("read.source_vs_first", "p50 with source=, of the first page's", most=10),
    Figure("read.old_source_vs_first", "p50 with source= whose rows are the oldest 1 %, of the first page's", most=10),
    Figure("read.asset_vs_first", "p50 with asset= of three listings, of the first page's", most=10),
    Figure("read.symbol_vs_first", "p50 with symbol=, of the first page's", most=10),
    Figure("read.quote_currency_vs_first", "p50 with quote_currency=, of the first page's", most=10),
    Figure("read.observed_from_vs_first", "p50 with observed_from=, of the first page's", most=10),
    Figure("read.observed_to_vs_first", "p50 with observed_to=, of the first page's", most=10),
    Figure("read.ingested_since_vs_first", "p50 with ingested_since=, of the first page's", most=10),
    Figure("read.run_vs_first", "p50 with run=, of the first page's", most=10),
    Figure("read.order_vs_first", "p50 with order=asc, of the first page's", most=10),
    Figure("read.hello_p50_ms", "p50 of a bare Flask hello, ms"),
    Figure("read.again_p50_ms", "p50 of /data?limit=100 asked for again, ms"),
    Figure("read.first_p50_ms", "p50 of /data?limit=100 where no answer is kept, ms"),
    Figure("read.again_rps", "requests/s of /data?limit=100 asked for again, on 8 connections"),
    Figure("read.page_rps", "requests/s of /data?limit=100 where no answer is kept, on 8 connections"),
    Figure("read.fastapi_rps", "requests/s of FastAPI on 8 connections"),
    Figure("export.rss_mb", "most memory of the web process during an export, MB", most=200),
    Figure("export.parquet_rss_mb", "of that, with format=parquet"),
    Figure("export.ndjson_rss_mb", "of that, with format=ndjson"),
)

BY_KEY = {figure.key: figure for figure in FIGURES}


class Measured:
    """The values of the figures, in the order of the rounds; and the parts that have none, or are wrong, and why."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)
        self.not_measured: dict[str, str] = {}
        self.broken: dict[str, str] = {}

    def note(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.values[BY_KEY[key].key].append(value)

    def figures(self) -> Sequence[Figure]:
        """Those that have values."""
        return [figure for figure in FIGURES if self.values.get(figure.key)]

    def medians(self) -> dict[str, float]:
        return {figure.key: round(self.median(figure), 4) for figure in self.figures()}

    def median(self, figure: Figure) -> float:
        return statistics.median(self.values[figure.key])
