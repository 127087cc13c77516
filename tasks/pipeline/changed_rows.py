"""Which of a page's rows are not there yet, and which are there with other values.

What is there is read as text and held against the page's: to give out a row costs Postgres a quarter of what it costs
to take one in. The same text is the same number; whether another is, as 1e-7 is 0.0000001, a Decimal tells.
"""

from __future__ import annotations

import io
from decimal import Decimal
from typing import NamedTuple, cast

import polars as pl
import psycopg2.extensions
from sqlalchemy import Connection

from sources.record import VALUE_FIELDS
from tasks.pipeline.copy_rows import CopyRows

KEY = ["listing_id", "observed_at"]

THERE = " there"
"""Behind the names of what is there."""

EXACT = 15
"""No two numbers of so many digits are the same float."""

SPANS = """
    SELECT there.* FROM unnest(CAST(%(listings)s AS int[]), CAST(%(since)s AS timestamptz[]),
                               CAST(%(until)s AS timestamptz[])) AS span(listing_id, since, until)
     CROSS JOIN LATERAL (SELECT * FROM quotes AS q WHERE q.listing_id = span.listing_id
                            AND q.observed_at BETWEEN span.since AND span.until OFFSET 0) AS there
"""
"""What is there within a page's spans. OFFSET keeps the planner from reading the whole table for a join."""


class RowChanges(NamedTuple):
    """What is in neither is there already, with the same values.

    changed: those of them that were fetched before what is there correct nothing.
    """

    new: CopyRows
    changed: CopyRows


def find_changes(connection: Connection, rows: CopyRows) -> RowChanges:
    """As of now: who holds the page's fence may still be overtaken by another run, and then meets its rows."""
    there = _read(connection, rows)
    if there is None:
        return RowChanges(rows.none(), rows)
    if there.is_empty():
        return RowChanges(rows, rows.none())
    beside = rows.frame.join(there, on=KEY, how="left", suffix=THERE, maintain_order="left")
    is_new = beside["has_more"].is_null()
    is_other = beside["has_more"].fill_null(value=False)
    for name in _values(rows):
        maybe = ~(is_new | is_other) & beside[name].ne_missing(beside[f"{name}{THERE}"])
        pairs = beside.filter(maybe).select(pl.col(name).alias("one"), pl.col(f"{name}{THERE}").alias("other"))
        is_other = is_other.scatter(maybe.arg_true().filter(_differ(pairs)), True)
    return RowChanges(rows.where(is_new), rows.where(is_other))


def _differ(pairs: pl.DataFrame) -> pl.Series:
    """Whether `one` and `other`, two texts, are two numbers."""
    differ, is_long = pairs.select(
        pl.col("one").cast(pl.Float64).ne_missing(pl.col("other").cast(pl.Float64)).alias("differ"),
        pl.all_horizontal(pl.all().is_not_null())
        & pl.any_horizontal(pl.all().str.strip_chars_start("0.").str.len_bytes() > EXACT),
    )
    exactly = [Decimal(one) != Decimal(other) for one, other in pairs.filter(is_long).iter_rows()]
    return differ.scatter(is_long.arg_true(), exactly)


def _values(rows: CopyRows) -> list[str]:
    return [name for name in VALUE_FIELDS if name in rows.frame.columns]


def _read(connection: Connection, rows: CopyRows) -> pl.DataFrame | None:
    """What is there within the rows' spans; None if that is much more than the rows."""
    most = 2 * len(rows) + 1000
    values = _values(rows)
    others = [name for name in VALUE_FIELDS if name not in values]
    query = f"""
        COPY (SELECT {", ".join([*KEY, *values])}, {f"num_nonnulls({', '.join(others)}) > 0" if others else "false"}
                FROM ({SPANS}) AS there LIMIT {most}) TO STDOUT
    """
    driver = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
    read = io.BytesIO()
    with driver.cursor() as cursor:
        cursor.copy_expert(cursor.mogrify(query, rows.spans), read)
    texts = dict.fromkeys(["observed_at", *values, "has_more"], pl.String)
    if not read.tell():
        return pl.DataFrame(schema={"listing_id": pl.Int32, **texts})
    read.seek(0)
    there = pl.read_csv(
        read,
        has_header=False,
        schema={"listing_id": pl.Int32, **texts},
        separator="\t",
        quote_char=None,
        null_values="\\N",
    )
    if len(there) == most:
        return None
    return there.with_columns(
        # The session's zone is UTC.
        pl.col("observed_at").str.to_datetime("%Y-%m-%d %H:%M:%S%.f+00", time_unit="us").dt.replace_time_zone("UTC"),
        pl.col("has_more") == "t",
    )
