"""Load rows with a tuned dlt: arrow batches, csv files, and a merge into a table with the key and indexes of quotes.

python dlt_load.py DATABASE_URL ROWS FOLDER: load the rows of a COPY file twice, and print the cost of each load.
It only loads: the rows are valid, and in memory before the clock starts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

# With compressed files, a load would take four times as long.
os.environ |= {"DATA_WRITER__DISABLE_COMPRESSION": "true", "RUNTIME__DLTHUB_TELEMETRY": "false"}

import dlt
import pyarrow
from pyarrow import csv

BATCH_ROWS = 100_000
KEY = ["listing_id", "observed_at"]
TIME = pyarrow.timestamp("us", "UTC")
NUMBERS = ("price", "open", "high", "low", "volume_24h", "market_cap")
TYPES = {
    "listing_id": pyarrow.int32(),
    "observed_at": TIME,
    # Pass text that is declared to dlt as decimals. Arrow's decimals would be 20 % slower and not exact.
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
    _load(pipeline, rows.slice(0, 1))  # This load creates the table.
    with pipeline.sql_client() as sql:
        for statement in ("TRUNCATE quotes", *INDEXES):
            sql.execute_sql(statement)
        costs = [_cost(sql, pipeline, rows) for _ in range(2)]
        [[count]] = sql.execute_sql("SELECT count(*) FROM quotes")
        assert count == rows.num_rows, f"{count} of {rows.num_rows} rows were loaded"
    print(json.dumps(costs))  # noqa: T201 — for the process that started this one


def _cost(sql: Any, pipeline: dlt.Pipeline, rows: pyarrow.Table) -> dict[str, float]:
    sql.native_connection.autocommit = True
    sql.execute_sql("VACUUM ANALYZE")
    sql.execute_sql("CHECKPOINT")
    begin, started_at = _wal_position(sql), time.monotonic()
    _load(pipeline, rows)
    return {"seconds": time.monotonic() - started_at, "wal": _wal_position(sql) - begin}


def _load(pipeline: dlt.Pipeline, rows: pyarrow.Table) -> None:
    @dlt.resource(columns=DECIMALS, primary_key=KEY, write_disposition={"disposition": "merge", "strategy": "upsert"})
    def quotes() -> Iterator[pyarrow.Table]:
        for begin in range(0, rows.num_rows, BATCH_ROWS):
            yield rows.slice(begin, BATCH_ROWS)

    pipeline.run(quotes, loader_file_format="csv")


def _wal_position(sql: Any) -> int:
    [[position]] = sql.execute_sql("SELECT pg_current_wal_insert_lsn() - '0/0'")
    return int(position)


if __name__ == "__main__":
    main(*sys.argv[1:])
