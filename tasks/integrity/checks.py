"""Define the checks of the stored data. Each check reads rows in batches by key, and counts their violations.

One statement checks a batch, so it reads one snapshot: a page that is being committed is either complete or absent.
"""

from __future__ import annotations

from dataclasses import dataclass

# Each step of the recursion is one look-up in the primary key. DISTINCT would read every quote.
_LISTINGS_WITH_QUOTES = """
    WITH RECURSIVE steps AS (
        (SELECT listing_id FROM quotes WHERE listing_id > CAST(:position AS int) ORDER BY listing_id LIMIT 1)
        UNION ALL
        SELECT (SELECT listing_id FROM quotes AS q WHERE q.listing_id > steps.listing_id ORDER BY 1 LIMIT 1)
          FROM steps WHERE steps.listing_id IS NOT NULL),
    bite AS (SELECT listing_id FROM steps WHERE listing_id IS NOT NULL LIMIT :bite)
"""

_RESULT = """
    SELECT max(key)::text AS position, coalesce(sum(violations), 0)::bigint AS violations,
           min(example) FILTER (WHERE violations > 0) AS example
      FROM counted
"""


@dataclass(frozen=True)
class Check:
    """A check of the stored data.

    name: the name of the violation. start: a position before every key. bite: the number of keys in a batch.
    query: counts the violations in a batch. It returns the position (the last key; null after the last batch), the
           number of violations, and an example.
    """

    name: str
    start: str
    bite: int
    query: str


CHECKS = (
    Check(
        "quotes_without_listing",
        "-2147483648",
        1000,
        f"""{_LISTINGS_WITH_QUOTES}, counted AS (
            SELECT listing_id AS key, 'listing ' || listing_id AS example,
                   CASE WHEN NOT EXISTS (SELECT FROM listings WHERE id = listing_id)
                        THEN (SELECT count(*) FROM quotes AS q WHERE q.listing_id = bite.listing_id)
                        ELSE 0 END AS violations
              FROM bite) {_RESULT}
        """,
    ),
    Check(
        "listings_with_wrong_latest",
        "-2147483648",
        1000,
        f"""{_LISTINGS_WITH_QUOTES}, counted AS (
            SELECT listing_id AS key, 'listing ' || listing_id AS example,
                   ((SELECT max(observed_at) FROM quotes AS q WHERE q.listing_id = bite.listing_id)
                    IS DISTINCT FROM
                    (SELECT observed_at FROM latest_quotes AS l WHERE l.listing_id = bite.listing_id)
                   )::int AS violations
              FROM bite) {_RESULT}
        """,
    ),
    Check(
        "latest_without_quote",
        "-2147483648",
        2000,
        f"""
        WITH bite AS (SELECT listing_id, observed_at FROM latest_quotes WHERE listing_id > CAST(:position AS int)
                       ORDER BY listing_id LIMIT :bite),
        counted AS (
            SELECT listing_id AS key, 'listing ' || listing_id AS example,
                   (NOT EXISTS (SELECT FROM quotes AS q WHERE q.listing_id = bite.listing_id
                                   AND q.observed_at = bite.observed_at))::int AS violations
              FROM bite) {_RESULT}
        """,
    ),
    # Quotes have no index on their run, so search within the observation times of the run's pages. After its end, a run
    # never gains quotes, but may lose quotes to later corrections and to retention.
    Check(
        "runs_with_too_many_quotes",
        "00000000-0000-0000-0000-000000000000",
        1,
        f"""
        WITH bite AS (SELECT id, source FROM runs WHERE id > CAST(:position AS uuid) AND finished_at IS NOT NULL
                       ORDER BY id LIMIT :bite),
        counted AS (
            SELECT bite.id::text AS key, 'run ' || bite.id AS example,
                   (quotes.number > coalesce(wrote.number, 0))::int AS violations
              FROM bite
             CROSS JOIN LATERAL (SELECT min(observed_from) AS since, max(observed_until) AS until,
                                        sum(inserted + updated) AS number
                                   FROM pages WHERE run = bite.id) AS wrote
             CROSS JOIN LATERAL (SELECT count(*) AS number FROM listings AS l JOIN quotes AS q ON q.listing_id = l.id
                                  WHERE l.source = bite.source AND q.run = bite.id
                                    AND q.observed_at BETWEEN wrote.since AND wrote.until) AS quotes) {_RESULT}
        """,
    ),
)
