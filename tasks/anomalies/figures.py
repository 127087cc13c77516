"""Measure a finished run: its figures, its price changes, and its price differences from other sources."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from sources.record import VALUE_FIELDS

MAX_LISTINGS_PER_RUN = 5000
"""The maximum number of a run's listings whose prices are compared with earlier prices."""

MAX_EARLIER_PRICES, MIN_EARLIER_PRICES = 12, 5
"""How many earlier prices of a listing to compare a new price with. Their median ignores a single wrong price."""

SAME_TIME = timedelta(minutes=30)
"""Maximum time between two sources' prices that are compared."""

RunFigures = dict[str, float]
"""A run's figures by name: items; seconds and lag, in seconds; rejected, repeated and null.<field>, as shares of the
items or quotes.

tasks/anomalies/judge.py adds two medians: off (of price gaps) and moved (of the logarithms of price jumps).
"""


class PriceJump(NamedTuple):
    """The newest price of a listing compared with its earlier prices. ratio: the price divided by their median."""

    listing: str
    ratio: float


# A page is unchanged if it counts no items, although a page with the same body had items.
_PAGE_FIGURES = text("""
    SELECT count(*) AS pages, sum(fetched) AS items, sum(rejected) AS rejected, sum(deduplicated) AS repeated,
           extract(epoch FROM max(observed_until) - max(fetched_at) FILTER (WHERE observed_until IS NOT NULL)) AS ahead,
           coalesce(bool_or(fetched = 0 AND blank = 0 AND EXISTS (
               SELECT FROM pages AS earlier
                WHERE earlier.source = p.source AND earlier.body_digest = p.body_digest AND earlier.fetched > 0)),
               false) AS has_unchanged_page
      FROM pages AS p WHERE run = :run
""")

NON_NULL_COUNTS = text("""
    SELECT name, sum(quotes::bigint) AS quotes
      FROM pages, LATERAL jsonb_each_text(filled) AS field(name, quotes) WHERE run = :run GROUP BY name
""")
"""By field, the number of the run's quotes that have a value in it."""

_PRICE_JUMPS = text("""
    SELECT new.source_asset_id || ' ' || new.quote_currency AS listing, (new.price / earlier.median)::float8 AS ratio
      FROM (SELECT l.id, l.source_asset_id, l.quote_currency, q.price, q.observed_at
              FROM listings AS l
              JOIN latest_quotes AS n ON n.listing_id = l.id
              JOIN quotes AS q ON q.listing_id = n.listing_id AND q.observed_at = n.observed_at
             WHERE l.source = :source AND q.run = :run ORDER BY l.id LIMIT :max_listings) AS new
     CROSS JOIN LATERAL (
            SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY price) AS median, count(*) AS count
              FROM (SELECT price FROM quotes AS q WHERE q.listing_id = new.id AND q.observed_at < new.observed_at
                     ORDER BY q.observed_at DESC LIMIT :max_prices) AS prices) AS earlier
     WHERE earlier.count >= :min_prices
""")

_PRICE_GAPS = text("""
    WITH newest AS MATERIALIZED (
        SELECT l.asset, l.quote_currency, l.source, q.observed_at, q.price
          FROM listings AS l
          JOIN latest_quotes AS n ON n.listing_id = l.id
          JOIN quotes AS q ON q.listing_id = n.listing_id AND q.observed_at = n.observed_at
         WHERE l.asset IN (SELECT asset FROM listings WHERE source = :source)
           AND l.asset IN (SELECT asset FROM listings WHERE source <> :source)),
    gaps AS (
        SELECT DISTINCT ON (own.asset, own.quote_currency) own.asset, own.price / other.price - 1 AS share,
               count(*) OVER (PARTITION BY own.asset, own.quote_currency) AS others
          FROM newest AS own
          JOIN newest AS other ON other.asset = own.asset AND other.quote_currency = own.quote_currency
                              AND other.source <> :source
                              AND other.observed_at BETWEEN own.observed_at - :same_time
                                                        AND own.observed_at + :same_time
         WHERE own.source = :source
         ORDER BY own.asset, own.quote_currency, abs(own.price / other.price - 1))
    SELECT slug, share::float8 AS share, others FROM gaps JOIN assets ON assets.id = gaps.asset ORDER BY slug
""")


def measure_run(connection: Connection, run: UUID, seconds: float) -> RunFigures:
    """Return the figures of a run that did not fail. seconds: its duration.

    Items are not counted if a page was unchanged, since its items were not read again.
    """
    pages = connection.execute(_PAGE_FIGURES, {"run": run}).one()
    figures: RunFigures = {"seconds": seconds}
    if pages.ahead is not None:
        figures["lag"] = -float(pages.ahead)
    if not pages.pages or pages.has_unchanged_page:
        return figures
    figures["items"] = float(pages.items)
    if pages.items:
        figures |= {"rejected": float(pages.rejected / pages.items), "repeated": float(pages.repeated / pages.items)}
    filled: Mapping[str, Any] = {row.name: row.quotes for row in connection.execute(NON_NULL_COUNTS, {"run": run})}
    # Every quote has a price, so this is the number of quotes. Quotes that had expired before their page was loaded are
    # not included.
    if quotes := filled.get("price"):
        figures |= {f"null.{name}": 1 - float(filled.get(name, 0) / quotes) for name in VALUE_FIELDS}
    return figures


def price_jumps(connection: Connection, source: str, run: UUID) -> list[PriceJump]:
    """Return a comparison with earlier prices for each listing whose newest price the run loaded."""
    rows = connection.execute(
        _PRICE_JUMPS,
        {
            "source": source,
            "run": run,
            "max_listings": MAX_LISTINGS_PER_RUN,
            "max_prices": MAX_EARLIER_PRICES,
            "min_prices": MIN_EARLIER_PRICES,
        },
    )
    return [PriceJump(row.listing, row.ratio) for row in rows]


class PriceGap(NamedTuple):
    """The difference between a source's price of an asset and the nearest price of another source.

    share: 0.05 means 5 % above that price. others: the number of other sources with a price at about the same time.
    """

    asset: str
    share: float
    others: int


def price_gaps(connection: Connection, source: str) -> list[PriceGap]:
    """Return the difference for each asset and quote currency for which other sources have a price."""
    rows = connection.execute(_PRICE_GAPS, {"source": source, "same_time": SAME_TIME})
    return [PriceGap(row.slug, row.share, row.others) for row in rows]
