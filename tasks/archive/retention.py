"""Delete expired quotes and raw bodies in small batches, oldest first, and filter expired quotes out of new pages.

Each batch is one short transaction that waits for no lock. Retention may be killed at any point, and two calls may run
at the same time. The next call deletes the remaining rows.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl
import structlog
from sqlalchemy import Connection, Engine, text

from settings import Settings
from sources.registry import SOURCES
from store.errors import describe
from store.schema import explain
from tasks.runtime.outdated_schema import schema_log
from tasks.runtime.retry import DATABASE_ERRORS

log = structlog.get_logger()

TIME_LIMIT = 0.5
"""Time limit of one call, in seconds. The reconciler waits in the same queue, so another call does the rest."""

QUOTE_BATCH_ROWS, BODY_BATCH_ROWS = 5_000, 100

FIRST_SPAN, MIN_SPAN = timedelta(days=1), timedelta(minutes=1)
"""A batch deletes the quotes of all listings in a span of time. The span adapts so that batches are nearly full."""

# This reads only the oldest entry of each listing in the primary key.
_OLDEST = """
    SELECT min(oldest.observed_at)
      FROM listings JOIN latest_quotes AS newest ON newest.listing_id = listings.id
     CROSS JOIN LATERAL (
           SELECT observed_at FROM quotes
            WHERE listing_id = newest.listing_id AND observed_at < least(:horizon, newest.observed_at)
            ORDER BY observed_at LIMIT 1) AS oldest
     WHERE listings.source = :source
"""

# Rows that a page is correcting are skipped. Neither transaction waits for the other, so they cannot deadlock.
_DELETE_QUOTES = """
    WITH expired AS MATERIALIZED (
        SELECT batch.listing_id, batch.observed_at
          FROM listings JOIN latest_quotes AS newest ON newest.listing_id = listings.id
         CROSS JOIN LATERAL (
               SELECT listing_id, observed_at FROM quotes
                WHERE listing_id = newest.listing_id
                  AND observed_at >= :since AND observed_at < least(:until, newest.observed_at)
                ORDER BY observed_at LIMIT :limit FOR UPDATE SKIP LOCKED) AS batch
         WHERE listings.source = :source
         LIMIT :limit)
    DELETE FROM quotes USING expired
     WHERE quotes.listing_id = expired.listing_id AND quotes.observed_at = expired.observed_at
"""

_NOT_RECEIVED_SINCE = """
    NOT EXISTS (SELECT FROM pages WHERE pages.source = raw_bodies.source
                   AND pages.body_digest = raw_bodies.digest AND pages.fetched_at >= :horizon)
"""

_EXPIRED_BODIES = f"""
    SELECT digest FROM raw_bodies
     WHERE source = :source AND body IS NOT NULL AND received_at < :horizon AND {_NOT_RECEIVED_SINCE}
     ORDER BY received_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
"""

# Checked again under the lock: a page that was committed just before the lock is visible only now.
_DELETE_BODIES = f"""
    UPDATE raw_bodies SET body = NULL
     WHERE source = :source AND digest = ANY(CAST(:digests AS bytea[])) AND {_NOT_RECEIVED_SINCE}
"""

_SUPERSEDED = """
    SELECT listing_id
      FROM unnest(CAST(:listings AS int[]), CAST(:times AS timestamptz[])) AS expired(listing_id, at)
      JOIN latest_quotes AS newest USING (listing_id) WHERE newest.observed_at > expired.at
"""


class _Deletion(NamedTuple):
    """The deletion of a source's expired rows.

    kind:    quotes or bodies.
    batches: deletes one batch per step and yields its size.
    """

    source: str
    kind: str
    batches: Iterator[int]


def delete_expired(
    engine: Engine,
    settings: Settings,
    *,
    seconds: float | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> bool:
    """Delete expired rows of all sources in turn, until the time is up. Return whether none are left.

    seconds: the time limit. clock: this host's clock (aware). If it differs from the database's clock, nothing is
             deleted.
    """
    until = time.monotonic() + (TIME_LIMIT if seconds is None else seconds)
    now = _verified_now(engine, settings, clock)
    deletions = deque(_deletions(engine, now) if now else ())
    deleted: Counter[tuple[str, str]] = Counter()
    while deletions and time.monotonic() < until:
        deletion = deletions.popleft()
        try:
            count = next(deletion.batches, None)
        except DATABASE_ERRORS as raised:
            error = explain(engine, raised)
            if not schema_log.error(error):
                log.warning("retention_failed", source=deletion.source, kind=deletion.kind, reason=describe(error))
        else:
            if count is not None:
                deleted[deletion.source, deletion.kind] += count
                deletions.append(deletion)
    for (source, kind), count in (+deleted).items():
        log.info("expired_rows_deleted", source=source, kind=kind, count=count)
    return not deletions


def expired_before(now: datetime, retention: timedelta) -> datetime:
    """Return the time before which a page's quotes have expired.

    now: the service's time. If it is ahead of this host's clock, the database's clock may be, or may have been, wrong.
    Then this host's clock counts, since a quote that is not loaded is lost. Retention can still delete it later.
    """
    return min(now, datetime.now(UTC)) - retention


def without_expired(engine: Engine, rows: pl.DataFrame, since: datetime) -> pl.DataFrame:
    """Return a page's rows without expired rows: those observed before `since`, which would soon be deleted.

    rows: as returned by `arrange`. The newest quote of each listing is kept, as in the table.
    """
    is_last = (pl.col("listing_id") != pl.col("listing_id").shift(-1)).fill_null(value=True)
    rows = rows.filter((pl.col("observed_at") >= since) | is_last)
    expired = rows.filter(pl.col("observed_at") < since)
    if expired.is_empty():
        return rows
    with engine.connect() as connection:
        values = {"listings": expired["listing_id"].to_list(), "times": expired["observed_at"].to_list()}
        superseded = connection.scalars(text(_SUPERSEDED), values).all()
    return rows.filter((pl.col("observed_at") >= since) | ~pl.col("listing_id").is_in(superseded))


def _verified_now(engine: Engine, settings: Settings, clock: Callable[[], datetime]) -> datetime | None:
    """Return the database's time, or None if it is unknown or differs from this host's clock.

    If they differ, one of them is wrong. If the wrong clock is years ahead, every row would count as expired.
    """
    try:
        with engine.connect() as connection:
            now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    except DATABASE_ERRORS as error:
        log.warning("retention_failed", reason=describe(error))
        return None
    difference = (now - clock()).total_seconds()
    if abs(difference) > settings.clock_skew:
        log.error("retention_failed", reason=f"the clocks of Postgres and of this host differ by {difference:g} s")
        return None
    return now


def _deletions(engine: Engine, now: datetime) -> Iterator[_Deletion]:
    for name, source in SOURCES.items():
        if retention := source.retention.quotes:
            yield _Deletion(name, "quotes", _delete_quotes(engine, name, now - retention))
        if retention := source.retention.bodies:
            yield _Deletion(name, "bodies", _delete_bodies(engine, name, now - retention))


def _delete_quotes(engine: Engine, source: str, horizon: datetime) -> Iterator[int]:
    """Delete the expired quotes of all listings, span by span. Quotes of one span are close together on disk."""
    with engine.connect() as connection:
        since = connection.scalar(text(_OLDEST), {"source": source, "horizon": horizon})
    span = FIRST_SPAN
    while since and since < horizon:
        until = min(since + span, horizon)
        with engine.begin() as connection:
            bounds = {"source": source, "since": since, "until": until, "limit": QUOTE_BATCH_ROWS}
            count = connection.execute(text(_DELETE_QUOTES), bounds).rowcount
            _count_deleted(connection, source, "quotes_dropped", count)
        yield count
        if count == QUOTE_BATCH_ROWS:
            span = max(span / 2, MIN_SPAN)
        else:
            since, span = until, span * 2


def _delete_bodies(engine: Engine, source: str, horizon: datetime) -> Iterator[int]:
    values = {"source": source, "horizon": horizon}
    size = BODY_BATCH_ROWS
    while size == BODY_BATCH_ROWS:
        with engine.begin() as connection:
            expired = connection.scalars(text(_EXPIRED_BODIES), {**values, "limit": BODY_BATCH_ROWS}).all()
            size = len(expired)
            digests = [bytes(digest) for digest in expired]
            count = connection.execute(text(_DELETE_BODIES), {**values, "digests": digests}).rowcount
            _count_deleted(connection, source, "bodies_dropped", count)
        yield count


def _count_deleted(connection: Connection, source: str, column: str, count: int) -> None:
    """Add to the source's counter, in the transaction that deletes the rows."""
    if count:
        connection.execute(
            text(f"UPDATE sources SET {column} = {column} + :count WHERE name = :source"),
            {"source": source, "count": count},
        )
