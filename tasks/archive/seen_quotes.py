"""Record the quotes that a full refresh sees in a source's files, so that it can retract all others.

The rows are written in the transaction of their page. They are therefore as complete as the pages, after any crash.
"""

from __future__ import annotations

import io
import time
from collections.abc import Collection
from typing import cast

import psycopg2.extensions
from sqlalchemy import Connection, Engine, text

from sources.contract import Source
from sources.record import QuoteKey
from tasks.runs.claims import Claim

KEY = ("listing_id", "observed_at")

TIME_LIMIT = 0.5
"""Time limit of one call of `delete_seen`, in seconds. The reconciler waits in the same queue."""

DELETE_BATCH_ROWS = 20_000

_CREATE_STAGED = """
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_seen ON COMMIT DELETE ROWS AS
    SELECT listing_id, observed_at FROM seen_quotes WITH NO DATA
"""

# A listing that is not stored has no quotes.
_STAGE_REJECTS = text("""
    INSERT INTO staged_seen (listing_id, observed_at)
    SELECT listings.id, rejected.at
      FROM unnest(CAST(:ids AS text[]), CAST(:currencies AS text[]), CAST(:times AS timestamptz[]))
        AS rejected(id, currency, at)
      JOIN listings ON listings.source = :source AND listings.source_asset_id = rejected.id
                   AND listings.quote_currency = rejected.currency
""")

# In the order of the key, so that two workers of one run that see the same quotes cannot deadlock.
_INSERT = text("""
    INSERT INTO seen_quotes (run, listing_id, observed_at)
    SELECT DISTINCT CAST(:run AS uuid), listing_id, observed_at FROM staged_seen ORDER BY listing_id, observed_at
    ON CONFLICT DO NOTHING
""")

# Each step of the recursion is one look-up in the primary key.
_FINISHED_RUNS = text("""
    WITH RECURSIVE steps AS (
        (SELECT run FROM seen_quotes ORDER BY run LIMIT 1)
        UNION ALL
        SELECT (SELECT run FROM seen_quotes AS s WHERE s.run > steps.run ORDER BY run LIMIT 1)
          FROM steps WHERE steps.run IS NOT NULL)
    SELECT run FROM steps
     WHERE run IS NOT NULL AND NOT EXISTS (SELECT FROM runs WHERE runs.id = steps.run AND runs.finished_at IS NULL)
""")

_DELETE = text("""
    DELETE FROM seen_quotes WHERE ctid = ANY(ARRAY(SELECT ctid FROM seen_quotes WHERE run = :run LIMIT :limit))
""")


def is_retracting(source: Source, claim: Claim) -> bool:
    """Return whether the run retracts the source's missing quotes, or counts them in a dry run."""
    return source.replaces and claim.kind == "live" and bool(claim.parameters.get("full_refresh"))


def record_seen(connection: Connection, claim: Claim, lines: bytes, rejects: Collection[QuoteKey]) -> None:
    """Record the quotes of a page as seen.

    lines:   the keys of the page's quotes, as lines for COPY.
    rejects: the keys of its rejects. A stored quote must not be retracted because its record is rejected now.
    """
    if not lines and not rejects:
        return
    connection.exec_driver_sql(_CREATE_STAGED)
    driver = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
    with driver.cursor() as cursor:
        cursor.copy_expert(f"COPY staged_seen ({', '.join(KEY)}) FROM STDIN", io.BytesIO(lines))
    if rejects:
        ids, currencies, times = map(list, zip(*rejects, strict=True))
        values = {"source": claim.source, "ids": ids, "currencies": currencies, "times": times}
        connection.execute(_STAGE_REJECTS, values)
    connection.execute(_INSERT, {"run": claim.run})


def delete_seen(engine: Engine, *, seconds: float = TIME_LIMIT) -> bool:
    """Delete the seen quotes of finished runs in batches, until the time is up. Return whether none are left."""
    until = time.monotonic() + seconds
    with engine.connect() as connection:
        runs = connection.scalars(_FINISHED_RUNS).all()
    for run in runs:
        deleted = DELETE_BATCH_ROWS
        while deleted == DELETE_BATCH_ROWS:
            if time.monotonic() >= until:
                return False
            with engine.begin() as connection:
                deleted = connection.execute(_DELETE, {"run": run, "limit": DELETE_BATCH_ROWS}).rowcount
    return True
