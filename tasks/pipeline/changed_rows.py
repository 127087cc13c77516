"""Find the rows of a page that are new, and the rows that differ from the stored rows.

The stored rows are read as text and compared here, because Postgres reads a row four times as fast as it writes one.
"""

from __future__ import annotations

import io
from typing import NamedTuple, cast

import polars as pl
import psycopg2.extensions
from sqlalchemy import Connection

from sources.record import VALUE_FIELDS
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.numbers_in_text import differ

KEY = ["listing_id", "observed_at"]

STORED = " stored"
"""Suffix of the columns of stored rows in a join."""

SPANS = """
    SELECT stored.* FROM unnest(CAST(%(listings)s AS int[]), CAST(%(since)s AS timestamptz[]),
                               CAST(%(until)s AS timestamptz[])) AS span(listing_id, since, until)
     CROSS JOIN LATERAL (SELECT * FROM quotes AS q WHERE q.listing_id = span.listing_id
                            AND q.observed_at BETWEEN span.since AND span.until OFFSET 0) AS stored
"""
"""Select the stored rows within a page's spans. OFFSET 0 prevents the planner from reading the whole table."""


UNPROVEN = """
    SELECT id FROM unnest(CAST(%(proven)s AS int[]), CAST(%(ids)s AS text[]), CAST(%(currencies)s AS text[]))
                AS known(id, source_asset_id, quote_currency)
     WHERE NOT coalesce((SELECT stored.source = %(source)s AND stored.source_asset_id = known.source_asset_id
                                AND stored.quote_currency = known.quote_currency
                           FROM listings AS stored WHERE stored.id = known.id), false)
"""
"""Select the listings of a page that are not stored under their ids. Each listing takes one look-up by its id."""


class ListingsLost(Exception):
    """Some listings are no longer stored under the ids that the database returned: the database was set back."""


class RowChanges(NamedTuple):
    """The rows of a page to write. Rows that are already stored with the same values are left out.

    changed: rows whose values differ from the stored values. They do not correct stored rows that were fetched later.
    """

    new: CopyRows
    changed: CopyRows


def find_changes(connection: Connection, rows: CopyRows) -> RowChanges:
    """Return the new and the changed rows. Another run may still write the same rows before this page does.

    Raise ListingsLost if an id of the page does not belong to its listing.
    """
    stored = _read_stored(connection, rows)
    if stored is None:
        return RowChanges(rows.empty(), rows)
    if stored.is_empty():
        return RowChanges(rows, rows.empty())
    joined = rows.frame.join(stored, on=KEY, how="left", suffix=STORED, maintain_order="left")
    is_new = joined["has_more"].is_null()
    is_changed = joined["has_more"].fill_null(value=False)
    for name in _values(rows):
        differs = ~(is_new | is_changed) & joined[name].ne_missing(joined[f"{name}{STORED}"])
        pairs = joined.filter(differs).select(pl.col(name).alias("new"), pl.col(f"{name}{STORED}").alias("stored"))
        is_changed = is_changed.scatter(differs.arg_true().filter(differ(pairs)), True)
    return RowChanges(rows.where(is_new), rows.where(is_changed))


def _values(rows: CopyRows) -> list[str]:
    return [name for name in VALUE_FIELDS if name in rows.frame.columns]


def _read_stored(connection: Connection, rows: CopyRows) -> pl.DataFrame | None:
    """Return the stored rows within the spans of these rows, or None if there are too many to compare.

    The column `has_more` is true if the stored row has a value in a column that these rows lack. The same statement
    verifies the ids of the page's listings, which saves a round trip. Raise ListingsLost if an id is wrong.
    """
    limit = 2 * len(rows) + 1000
    values = _values(rows)
    others = [name for name in VALUE_FIELDS if name not in values]
    query = f"""
        COPY (SELECT id, {"NULL, " * (len(values) + 1)}NULL FROM ({UNPROVEN}) AS unproven
               UNION ALL
              (SELECT {", ".join([*KEY, *values])}, {f"num_nonnulls({', '.join(others)}) > 0" if others else "false"}
                 FROM ({SPANS}) AS stored LIMIT {limit})) TO STDOUT
    """
    driver = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
    lines = io.BytesIO()
    with driver.cursor() as cursor:
        cursor.copy_expert(cursor.mogrify(query, {**rows.spans, **rows.proof}), lines)
    texts = dict.fromkeys(["observed_at", *values, "has_more"], pl.String)
    if not lines.tell():
        return pl.DataFrame(schema={"listing_id": pl.Int32, **texts})
    lines.seek(0)
    stored = pl.read_csv(
        lines,
        has_header=False,
        schema={"listing_id": pl.Int32, **texts},
        separator="\t",
        quote_char=None,
        null_values="\\N",
    )
    if lost := stored["observed_at"].null_count():
        raise ListingsLost(f"listings of the page that are not stored under the ids that the database returned: {lost}")
    if len(stored) == limit:
        return None
    return stored.with_columns(
        # Database sessions use the time zone UTC.
        pl.col("observed_at").str.to_datetime("%Y-%m-%d %H:%M:%S%.f+00", time_unit="us").dt.replace_time_zone("UTC"),
        pl.col("has_more") == "t",
    )
