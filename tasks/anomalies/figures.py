"""What is measured of a finished run, to be held against the runs before it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from sources.record import VALUE_FIELDS

MOST_LISTINGS = 5000
"""So many of a run's listings are looked at for their prices."""

BEFORE = 12
"""Prices of before, of whose median a new one is held against: one that was wrong among them does not count."""

ENOUGH_BEFORE = 5

SAME_TIME = timedelta(minutes=30)
"""Two sources' prices no further apart are of about the same time."""

RunFigures = dict[str, float]
"""By name: items, rejected, repeated (shares), seconds, lag (seconds), null.<field> (shares), off (a share)."""


class PriceJump(NamedTuple):
    """A listing whose price is another than its prices of before had it. ratio: to their median."""

    listing: str
    ratio: float


_PAGES = text("""
    SELECT count(*) AS pages, sum(fetched) AS items, sum(rejected) AS rejected, sum(deduplicated) AS repeated,
           extract(epoch FROM max(observed_until) - max(fetched_at) FILTER (WHERE observed_until IS NOT NULL)) AS ahead,
           coalesce(bool_or(fetched = 0 AND blank = 0 AND EXISTS (
               SELECT FROM pages AS e WHERE e.source = p.source AND e.body_digest = p.body_digest AND e.fetched > 0)),
               false) AS some_unchanged
      FROM pages AS p WHERE run = :run
""")

FILLED = text("""
    SELECT name, sum(quotes::bigint) AS quotes
      FROM pages, LATERAL jsonb_each_text(filled) AS it(name, quotes) WHERE run = :run GROUP BY name
""")

_JUMPS = text("""
    SELECT it.source_asset_id || ' ' || it.quote_currency AS listing, (it.price / before.median)::float8 AS ratio
      FROM (SELECT l.id, l.source_asset_id, l.quote_currency, q.price, q.observed_at
              FROM listings AS l
              JOIN latest_quotes AS n ON n.listing_id = l.id
              JOIN quotes AS q ON q.listing_id = n.listing_id AND q.observed_at = n.observed_at
             WHERE l.source = :source AND q.run = :run ORDER BY l.id LIMIT :most) AS it
     CROSS JOIN LATERAL (
            SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY price) AS median, count(*) AS count
              FROM (SELECT price FROM quotes AS b WHERE b.listing_id = it.id AND b.observed_at < it.observed_at
                     ORDER BY b.observed_at DESC LIMIT :before) AS those) AS before
     WHERE before.count >= :enough
""")

# Of each asset its newest price here against the nearest of those that others have, of about the same time.
_OFF = text("""
    WITH newest AS MATERIALIZED (
        SELECT l.asset, l.quote_currency, l.source, q.observed_at, q.price
          FROM listings AS l
          JOIN latest_quotes AS n ON n.listing_id = l.id
          JOIN quotes AS q ON q.listing_id = n.listing_id AND q.observed_at = n.observed_at
         WHERE l.asset IN (SELECT asset FROM listings WHERE source = :source)
           AND l.asset IN (SELECT asset FROM listings WHERE source <> :source)),
    apart AS (
        SELECT DISTINCT ON (mine.asset, mine.quote_currency) mine.asset, mine.price / theirs.price - 1 AS share,
               count(*) OVER (PARTITION BY mine.asset, mine.quote_currency) AS others
          FROM newest AS mine
          JOIN newest AS theirs ON theirs.asset = mine.asset AND theirs.quote_currency = mine.quote_currency
                               AND theirs.source <> :source
                               AND theirs.observed_at BETWEEN mine.observed_at - :same_time
                                                          AND mine.observed_at + :same_time
         WHERE mine.source = :source
         ORDER BY mine.asset, mine.quote_currency, abs(mine.price / theirs.price - 1))
    SELECT slug, share::float8 AS share, others FROM apart JOIN assets ON assets.id = apart.asset ORDER BY slug
""")


def measure_run(connection: Connection, run: UUID, seconds: float) -> RunFigures:
    """Of a run that loaded what it fetched. Without what can only be said of items that were read: some were known."""
    pages = connection.execute(_PAGES, {"run": run}).one()
    figures: RunFigures = {"seconds": seconds}
    if pages.ahead is not None:
        figures["lag"] = -float(pages.ahead)
    if not pages.pages or pages.some_unchanged:
        return figures
    figures["items"] = float(pages.items)
    if pages.items:
        figures |= {"rejected": float(pages.rejected / pages.items), "repeated": float(pages.repeated / pages.items)}
    filled: Mapping[str, Any] = {row.name: row.quotes for row in connection.execute(FILLED, {"run": run})}
    if quotes := filled.get("price"):  # each has one; those that expire at once are no quotes
        figures |= {f"null.{name}": 1 - float(filled.get(name, 0) / quotes) for name in VALUE_FIELDS}
    return figures


def price_jumps(connection: Connection, source: str, run: UUID) -> list[PriceJump]:
    """For each listing of which the run brought the newest price, that against its prices of before."""
    rows = connection.execute(
        _JUMPS, {"source": source, "run": run, "most": MOST_LISTINGS, "before": BEFORE, "enough": ENOUGH_BEFORE}
    )
    return [PriceJump(row.listing, row.ratio) for row in rows]


class PriceGap(NamedTuple):
    """By how much a source's price of an asset is off from that of the source that is nearest: 0.05 is 5 %.

    others: how many other sources have one of about the same time.
    """

    asset: str
    share: float
    others: int


def price_gaps(connection: Connection, source: str) -> list[PriceGap]:
    """For each asset, and quote currency, that other sources have a price of as well."""
    rows = connection.execute(_OFF, {"source": source, "same_time": SAME_TIME})
    return [PriceGap(row.slug, row.share, row.others) for row in rows]
