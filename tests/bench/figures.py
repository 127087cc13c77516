"""Declare each figure with its meaning and target, and collect its values over the rounds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class NotMeasured(Exception):
    """A figure cannot be measured on this machine. The message gives the reason."""


@dataclass(frozen=True)
class Figure:
    """A measured figure. minimum, maximum: its target, if it has one."""

    key: str
    meaning: str
    minimum: float | None = None
    maximum: float | None = None

    @property
    def target(self) -> str:
        if self.minimum is not None:
            return f"≥ {self.minimum:g}"
        return f"≤ {self.maximum:g}" if self.maximum is not None else ""

    def is_met(self, value: float) -> bool:
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)


FIGURES = (
    Figure("load.first_vs_copy", "first load: rows/s relative to a bare COPY", minimum=0.75),
    Figure("load.unchanged_vs_copy", "unchanged reload: rows/s relative to a bare COPY", minimum=1.3),
    Figure("load.changed_vs_copy", "one row in ten changed: rows/s relative to a bare COPY"),
    Figure("load.first_vs_dlt", "first load: rows/s relative to dlt", minimum=1.3),
    Figure("load.unchanged_vs_dlt", "unchanged reload: rows/s relative to dlt", minimum=3),
    Figure("load.vs_sqlalchemy", "first load: rows/s relative to a row-wise SQLAlchemy upsert", minimum=10),
    Figure("load.vs_marshmallow", "first load: rows/s relative to marshmallow on every row"),
    Figure("load.unchanged_wal_share", "unchanged reload: WAL relative to the first load", maximum=0.05),
    Figure("load.published_overhead_s", "first load: seconds from POST /runs to its end, without the run itself"),
    Figure("load.copy_rows_s", "bare COPY: rows/s"),
    Figure("load.first_rows_s", "first load: rows/s"),
    Figure("load.unchanged_rows_s", "unchanged reload: rows/s"),
    Figure("load.changed_rows_s", "one row in ten changed: rows/s"),
    Figure("load.dlt_first_rows_s", "dlt, first load: rows/s"),
    Figure("load.dlt_unchanged_rows_s", "dlt, unchanged reload: rows/s"),
    Figure("load.sqlalchemy_rows_s", "row-wise SQLAlchemy upsert: rows/s"),
    Figure("load.marshmallow_rows_s", "marshmallow on every row: rows/s"),
    Figure("load.two_workers", "two workers on one file: rows/s relative to one worker", minimum=1.3),
    Figure("load.two_copies", "two bare COPYs of the halves: rows/s relative to one COPY of the whole"),
    Figure("load.two_workers_vs_copies", "gain of two workers relative to the gain of two COPYs", minimum=0.9),
    Figure("load.rss_mb", "worker process loading a large file: peak memory, MB", maximum=300),
    Figure("load.growth_10m", "new rows into a large table: seconds relative to an empty table", maximum=1.35),
    Figure("read.again_p50_vs_hello", "/data?limit=100, cached: p50 relative to a bare Flask hello", maximum=3.5),
    Figure("read.page_p50_vs_hello", "/data?limit=100, uncached: p50 relative to a hello", maximum=3.5),
    Figure("read.again_throughput_vs_fastapi", "/data?limit=100, cached: requests/s relative to FastAPI", minimum=1.3),
    Figure(
        "read.throughput_vs_fastapi",
        "/data?limit=100, uncached: requests/s relative to FastAPI + asyncpg + orjson",
        minimum=1.3,
    ),
    Figure("read.again_p50_vs_fastapi", "/data?limit=100, cached: p50 relative to FastAPI"),
    Figure("read.p50_vs_fastapi", "/data?limit=100, uncached: p50 relative to FastAPI"),
    Figure("read.deep_vs_first", "page half-way through the table: p50 relative to the first page", maximum=1.5),
    Figure("read.latest_vs_first", "/data/latest?limit=100: p50 relative to the first page", maximum=2),
    Figure("read.source_vs_first", "source=: p50 relative to the first page", maximum=10),
    Figure(
        "read.old_source_vs_first",
        "source= with the oldest 1 % of the rows: p50 relative to the first page",
        maximum=10,
    ),
    Figure("read.asset_vs_first", "asset= with three listings: p50 relative to the first page", maximum=10),
    Figure("read.symbol_vs_first", "symbol=: p50 relative to the first page", maximum=10),
    Figure("read.quote_currency_vs_first", "quote_currency=: p50 relative to the first page", maximum=10),
    Figure("read.observed_from_vs_first", "observed_from=: p50 relative to the first page", maximum=10),
    Figure("read.observed_to_vs_first", "observed_to=: p50 relative to the first page", maximum=10),
    Figure("read.ingested_since_vs_first", "ingested_since=: p50 relative to the first page", maximum=10),
    Figure("read.run_vs_first", "run=: p50 relative to the first page", maximum=10),
    Figure("read.order_vs_first", "order=asc: p50 relative to the first page", maximum=10),
    Figure("read.hello_p50_ms", "bare Flask hello: p50, ms"),
    Figure("read.again_p50_ms", "/data?limit=100, cached: p50, ms"),
    Figure("read.first_p50_ms", "/data?limit=100, uncached: p50, ms"),
    Figure("read.again_rps", "/data?limit=100, cached: requests/s on 8 connections"),
    Figure("read.page_rps", "/data?limit=100, uncached: requests/s on 8 connections"),
    Figure("read.fastapi_rps", "FastAPI: requests/s on 8 connections"),
    Figure("export.rss_mb", "web process during an export: peak memory, MB", maximum=200),
    Figure("export.parquet_rss_mb", "the same with format=parquet, MB"),
    Figure("export.ndjson_rss_mb", "the same with format=ndjson, MB"),
)

BY_KEY = {figure.key: figure for figure in FIGURES}


class Measured:
    """The values of each figure in the order of the rounds. not_measured, failures: a reason for each benchmark."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)
        self.not_measured: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    def note(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.values[BY_KEY[key].key].append(value)

    def figures(self) -> Sequence[Figure]:
        """Return the figures that have values."""
        return [figure for figure in FIGURES if self.values.get(figure.key)]

    def medians(self) -> dict[str, float]:
        return {figure.key: round(self.median(figure), 4) for figure in self.figures()}

    def median(self, figure: Figure) -> float:
        return statistics.median(self.values[figure.key])
