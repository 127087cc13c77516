"""dlt, tuned: arrow batches, csv files, merge by the key of quotes into a table with the indexes of quotes.

python dlt_load.py DATABASE_URL ROWS FOLDER: loads what COPY would load of ROWS, and again, and prints what each cost.
It only loads: the rows are clean, and in memory before the clock is started.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

# Files that are compressed first and unpacked for COPY take four times as long.
os.environ |= {"DATA_WRITER__DISABLE_COMPRESSION": "true", "RUNTIME__DLTHUB_TELEMETRY": "false"}

import dlt
import pyarrow
from pyarrow import csv

BATCH = 100_000
KEY = ["listing_id", "observed_at"]
TIME = pyarrow.timestamp("us", "UTC")
NUMBERS = ("price", "open", "high", "low", "volume_24h", "market_cap")
TYPES = {
    "listing_id": pyarrow.int32(),
    "observed_at": TIME,
    # Declared as decimals to dlt: arrow's own cost it a fifth more, and would not be exact.
    **dict.fromkeys(NUMBERS, pyarrow.string()),
    "fetched_at": TIME,
    "run": pyarrow.string(),
}
DECIMALS: Any = {name: {"data_type": "decimal"} for name in NUMBERS}
INDEXES = (
    "ALTER TABLE quotes ADD COLUMN ingested_at timestamptz NOT NULL DEFAULT now()",
    "ALTER TABLE quotes ADD PRIMARY KEY (listing_id, observed_at)",
    "CREATE INDEX ON quotes (observed_at, listing_id)",
    "CREATE INDEX ON quotes USING brin (ingested_at)",
)


def main(url: str, file: str, folder: str) -> None:
    rows = csv.read_csv(
        file,
        read_options=csv.ReadOptions(column_names=list(TYPES)),
        parse_options=csv.ParseOptions(delimiter="\t"),
        convert_options=csv.ConvertOptions(column_types=TYPES),
    )
    pipeline = dlt.pipeline(
        "bench", destination=dlt.destinations.postgres(url), dataset_name="bench", pipelines_dir=folder
    )
    _load(pipeline, rows.slice(0, 1))  # makes the table
    with pipeline.sql_client() as sql:
        for statement in ("TRUNCATE quotes", *INDEXES):
            sql.execute_sql(statement)
        costs = [_cost(sql, pipeline, rows) for _ in range(2)]
        [[count]] = sql.execute_sql("SELECT count(*) FROM quotes")
        assert count == rows.num_rows, f"{count} of {rows.num_rows} rows are there"
    print(json.dumps(costs))  # noqa: T201 — for the process that started this one


def _cost(sql: Any, pipeline: dlt.Pipeline, rows: pyarrow.Table) -> dict[str, float]:
    sql.native_connection.autocommit = True
    sql.execute_sql("VACUUM ANALYZE")
    sql.execute_sql("CHECKPOINT")
    begin, started = _written(sql), time.monotonic()
    _load(pipeline, rows)
    return {"seconds": time.monotonic() - started, "wal": _written(sql) - begin}


def _load(pipeline: dlt.Pipeline, rows: pyarrow.Table) -> None:
    @dlt.resource(columns=DECIMALS, primary_key=KEY, write_disposition={"disposition": "merge", "strategy": "upsert"})
    def quotes() -> Iterator[pyarrow.Table]:
        for begin in range(0, rows.num_rows, BATCH):
            yield rows.slice(begin, BATCH)

    pipeline.run(quotes, loader_file_format="csv")


def _written(sql: Any) -> int:
    [[written]] = sql.execute_sql("SELECT pg_current_wal_insert_lsn() - '0/0'")
    return int(written)


if __name__ == "__main__":
    main(*sys.argv[1:])
