"""Quotes and raw bodies that have expired are dropped, oldest first, a bite at a time; such quotes are not even loaded.

Each bite is one short transaction that waits for no lock, so it does not matter where it is killed, nor whether another
is at it as well. What a bite leaves, the next turn finds again.
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
from tasks.runtime.retry import DATABASE_ERRORS

log = structlog.get_logger()

TURN = 10.0
"""Seconds; the reconciler waits behind a turn, on the same queue."""

QUOTES_AT_ONCE, BODIES_AT_ONCE = 5_000, 100

FIRST_SPAN, SHORTEST_SPAN = timedelta(days=1), timedelta(minutes=1)
"""Of time, of which a bite takes the quotes of all listings; in between it is as long as a bite is filled by."""

# Of each listing the index entry at the beginning of its part of the primary key.
_OLDEST = """
    SELECT min(oldest.observed_at)
      FROM listings JOIN latest_quotes AS newest ON newest.listing_id = listings.id
     CROSS JOIN LATERAL (
           SELECT observed_at FROM quotes
            WHERE listing_id = newest.listing_id AND observed_at < least(:horizon, newest.observed_at)
            ORDER BY observed_at LIMIT 1) AS oldest
     WHERE listings.source = :source
"""

# What a page is just correcting is left: neither waits for the other, so they cannot wait in a circle.
_DROP_QUOTES = """
    WITH expired AS MATERIALIZED (
        SELECT one.listing_id, one.observed_at
          FROM listings JOIN latest_quotes AS newest ON newest.listing_id = listings.id
         CROSS JOIN LATERAL (
               SELECT listing_id, observed_at FROM quotes
                WHERE listing_id = newest.listing_id
                  AND observed_at >= :since AND observed_at < least(:until, newest.observed_at)
                ORDER BY observed_at LIMIT :most FOR UPDATE SKIP LOCKED) AS one
         WHERE listings.source = :source
         LIMIT :most)
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
     ORDER BY received_at LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
"""

# Asked once more under the lock: a page that came in just before it is to be seen only now.
_DROP_BODIES = f"""
    UPDATE raw_bodies SET body = NULL
     WHERE source = :source AND digest = ANY(CAST(:digests AS bytea[])) AND {_NOT_RECEIVED_SINCE}
"""

_SUPERSEDED = """
    SELECT listing_id
      FROM unnest(CAST(:listings AS int[]), CAST(:times AS timestamptz[])) AS old(listing_id, at)
      JOIN latest_quotes AS newest USING (listing_id) WHERE newest.observed_at > old.at
"""


class _Drop(NamedTuple):
    """Something of a source that is to be dropped. bites: drops some of it, and gives how many, until none is left."""

    source: str
    what: str
    bites: Iterator[int]


def delete_expired(
    engine: Engine,
    settings: Settings,
    *,
    seconds: float = TURN,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Drop what has expired, of all sources side by side, until nothing is left or the time is up.

    clock: this host's, by which the database's is checked (aware).
    """
    until = time.monotonic() + seconds
    now = _agreed_time(engine, settings, clock)
    drops = deque(_drops(engine, now) if now else ())
    dropped: Counter[tuple[str, str]] = Counter()
    while drops and time.monotonic() < until:
        drop = drops.popleft()
        try:
            count = next(drop.bites, None)
        except DATABASE_ERRORS as error:
            log.warning("retention_failed", source=drop.source, what=drop.what, reason=describe(error))
        else:
            if count is not None:
                dropped[drop.source, drop.what] += count
                drops.append(drop)
    for (source, what), count in (+dropped).items():
        log.info("expired_rows_deleted", source=source, what=what, count=count)


def without_expired(engine: Engine, rows: pl.DataFrame, since: datetime) -> pl.DataFrame:
    """A page's rows, as `arrange` gives them, without those observed earlier: loaded, they would go within a minute.

    The newest of a listing stays, as it would in the table.
    """
    is_last = (pl.col("listing_id") != pl.col("listing_id").shift(-1)).fill_null(value=True)
    rows = rows.filter((pl.col("observed_at") >= since) | is_last)
    old = rows.filter(pl.col("observed_at") < since)
    if old.is_empty():
        return rows
    with engine.connect() as connection:
        values = {"listings": old["listing_id"].to_list(), "times": old["observed_at"].to_list()}
        superseded = connection.scalars(text(_SUPERSEDED), values).all()
    return rows.filter((pl.col("observed_at") >= since) | ~pl.col("listing_id").is_in(superseded))


def _agreed_time(engine: Engine, settings: Settings, clock: Callable[[], datetime]) -> datetime | None:
    """The database's time; None where it is not to be had, or this host's is another.

    One of the two is wrong then, and by a clock that is years ahead all there is would have expired.
    """
    try:
        with engine.connect() as connection:
            now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    except DATABASE_ERRORS as error:
        log.warning("retention_failed", reason=describe(error))
        return None
    apart = (now - clock()).total_seconds()
    if abs(apart) > settings.clock_skew:
        log.error("retention_failed", reason=f"the clocks of Postgres and of this host are {apart:g} s apart")
        return None
    return now


def _drops(engine: Engine, now: datetime) -> Iterator[_Drop]:
    for name, source in SOURCES.items():
        if kept := source.retention.quotes:
            yield _Drop(name, "quotes", _drop_quotes(engine, name, now - kept))
        if kept := source.retention.bodies:
            yield _Drop(name, "bodies", _drop_bodies(engine, name, now - kept))


def _drop_quotes(engine: Engine, source: str, horizon: datetime) -> Iterator[int]:
    """Span after span of time, in each of all listings: what was loaded together lies together on disk."""
    with engine.connect() as connection:
        since = connection.scalar(text(_OLDEST), {"source": source, "horizon": horizon})
    span = FIRST_SPAN
    while since and since < horizon:
        until = min(since + span, horizon)
        with engine.begin() as connection:
            bounds = {"source": source, "since": since, "until": until, "most": QUOTES_AT_ONCE}
            count = connection.execute(text(_DROP_QUOTES), bounds).rowcount
            _add_up(connection, source, "quotes_dropped", count)
        yield count
        if count == QUOTES_AT_ONCE:
            span = max(span / 2, SHORTEST_SPAN)
        else:
            since, span = until, span * 2


def _drop_bodies(engine: Engine, source: str, horizon: datetime) -> Iterator[int]:
    values = {"source": source, "horizon": horizon}
    found = BODIES_AT_ONCE
    while found == BODIES_AT_ONCE:
        with engine.begin() as connection:
            expired = connection.scalars(text(_EXPIRED_BODIES), {**values, "most": BODIES_AT_ONCE}).all()
            found = len(expired)
            digests = [bytes(digest) for digest in expired]
            count = connection.execute(text(_DROP_BODIES), {**values, "digests": digests}).rowcount
            _add_up(connection, source, "bodies_dropped", count)
        yield count


def _add_up(connection: Connection, source: str, column: str, count: int) -> None:
    """Count what was dropped, in the transaction that drops it."""
    if count:
        connection.execute(
            text(f"UPDATE sources SET {column} = {column} + :count WHERE name = :source"),
            {"source": source, "count": count},
        )
