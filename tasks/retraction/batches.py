"""Compare a source's stored quotes with the quotes that its run saw, and delete the missing ones, batch by batch.

Each batch reads a limited number of quotes, in the order of their primary key. Each quote is looked up on its own, so a
comparison takes time in proportion to the number of stored quotes, whatever the files contain.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from tasks.retraction.state import QuotePosition, Retraction
from tasks.runs.claims import Claim

BATCH_QUOTES, BATCH_LISTINGS = 5_000, 1_000
"""Maximum number of quotes and of listings in a batch."""

_LISTINGS = text("SELECT id FROM listings WHERE source = :source AND id >= :listing ORDER BY id LIMIT :limit")

# With outdated statistics, the planner would read and sort the whole rest of a large listing for each batch.
_SET_SORTING = text("""
    SELECT set_config(setting, :value, true)
      FROM unnest(ARRAY['enable_sort', 'enable_seqscan', 'enable_bitmapscan']) AS setting
""")

# The current listing and the following ones are separate, so that a batch does not read the current one from its start.
# A subquery instead of EXISTS, which the planner could execute by reading all seen quotes.
_COMPARE = text("""
    SELECT listing_id, observed_at,
           (SELECT true FROM seen_quotes AS seen
             WHERE seen.run = :run AND seen.listing_id = batch.listing_id
               AND seen.observed_at = batch.observed_at) IS NULL AS is_missing
      FROM ((SELECT listing_id, observed_at FROM quotes
              WHERE listing_id = CAST(:listing AS int) AND observed_at > CAST(:observed_at AS timestamptz)
              ORDER BY listing_id, observed_at LIMIT :limit)
             UNION ALL
            (SELECT listing_id, observed_at FROM quotes WHERE listing_id = ANY(CAST(:following AS int[]))
              ORDER BY listing_id, observed_at LIMIT :limit)
             LIMIT :limit) AS batch
     ORDER BY listing_id, observed_at
""")

# The rows are looked up one by one, and locked in the order of the key, as pages do.
_DELETE = text("""
    WITH locked AS MATERIALIZED (
        SELECT q.tid
          FROM unnest(CAST(:listings AS int[]), CAST(:times AS timestamptz[])) AS missing(listing_id, observed_at)
         CROSS JOIN LATERAL (SELECT quotes.ctid AS tid FROM quotes
                              WHERE quotes.listing_id = missing.listing_id
                                AND quotes.observed_at = missing.observed_at FOR UPDATE) AS q)
    DELETE FROM quotes WHERE ctid = ANY(ARRAY(SELECT tid FROM locked))
""")

# The lock prevents retention from deleting the quote that becomes the newest one. If retention is already deleting it,
# both transactions wait for each other, since a deletion also changes a row of `revisions`. One of them is retried.
_MOVE_LATEST = text("""
    WITH newest AS MATERIALIZED (
        SELECT l.listing_id, q.observed_at
          FROM latest_quotes AS l
         CROSS JOIN LATERAL (SELECT observed_at FROM quotes WHERE listing_id = l.listing_id
                              ORDER BY observed_at DESC LIMIT 1 FOR KEY SHARE) AS q
         WHERE l.listing_id = ANY(CAST(:listings AS int[])))
    UPDATE latest_quotes AS l SET observed_at = newest.observed_at FROM newest
     WHERE l.listing_id = newest.listing_id AND l.observed_at <> newest.observed_at
""")

_DELETE_LATEST = text("""
    DELETE FROM latest_quotes AS l WHERE listing_id = ANY(CAST(:listings AS int[]))
       AND NOT EXISTS (SELECT FROM quotes AS q WHERE q.listing_id = l.listing_id)
""")

_COUNT_DELETED = text("UPDATE sources SET quotes_dropped = quotes_dropped + :count WHERE name = :source")


def process_batch(connection: Connection, claim: Claim, retraction: Retraction) -> Retraction:
    """Compare the next batch of quotes, or delete its missing quotes, depending on the phase. Return the progress."""
    listing, at = retraction.position
    listings = connection.scalars(
        _LISTINGS, {"source": claim.source, "listing": listing, "limit": BATCH_LISTINGS}
    ).all()
    following = [other for other in listings if other > listing]
    values = {"run": claim.run, "following": following, "listing": listing, "observed_at": at, "limit": BATCH_QUOTES}
    connection.execute(_SET_SORTING, {"value": "off"})
    rows = connection.execute(_COMPARE, values).all()
    connection.execute(_SET_SORTING, {"value": "on"})
    quotes = [(row.listing_id, row.observed_at.isoformat()) for row in rows]
    missing = [quote for quote, row in zip(quotes, rows, strict=True) if row.is_missing]
    position = _last_position(quotes, listings)
    if retraction.phase == "compare":
        return retraction.advanced(position, compared=len(quotes), missing=missing)
    return retraction.advanced(position, deleted=_delete(connection, claim, missing) if missing else 0)


def _last_position(quotes: Sequence[QuotePosition], listings: Sequence[int]) -> QuotePosition | None:
    if len(quotes) == BATCH_QUOTES:
        return quotes[-1]
    return (listings[-1] + 1, "-infinity") if len(listings) == BATCH_LISTINGS else None


def _delete(connection: Connection, claim: Claim, missing: Sequence[QuotePosition]) -> int:
    """Delete quotes, move the pointers to the latest quotes, and count the deletions. Return their number."""
    listings, times = map(list, zip(*missing, strict=True))
    count = connection.execute(_DELETE, {"listings": listings, "times": times}).rowcount
    affected = {"listings": sorted({*listings})}
    connection.execute(_MOVE_LATEST, affected)
    connection.execute(_DELETE_LATEST, affected)
    connection.execute(_COUNT_DELETED, {"count": count, "source": claim.source})
    return count
