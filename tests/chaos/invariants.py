"""What must hold after every fault. Each is a query that gives the rows which break it, and the words for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tests.content import CONTENT

Row = tuple[Hashable, tuple[str, ...]]
"""Of what was loaded: its natural key, and its values."""

REJECTS = "SELECT source, item, reasons FROM rejects"

BROKEN_BY = {
    "a page's counters do not add up": """
        SELECT run, partition, seq FROM pages
         WHERE fetched <> inserted + updated + unchanged + deduplicated + rejected
    """,
    "the quotes there are not those that the pages say they inserted": """
        SELECT source, coalesce(p.inserted, 0) AS inserted, coalesce(q.quotes, 0) AS there
          FROM (SELECT source, sum(inserted) AS inserted FROM pages GROUP BY 1) AS p
          FULL JOIN (SELECT source, count(*) AS quotes FROM quotes JOIN listings ON listings.id = listing_id
                      GROUP BY 1) AS q USING (source)
         WHERE coalesce(p.inserted, 0) <> coalesce(q.quotes, 0)
    """,
    "a quote is of a run that says it wrote fewer": """
        SELECT q.run, q.there, coalesce(p.wrote, 0) AS wrote
          FROM (SELECT run, count(*) AS there FROM quotes GROUP BY 1) AS q
          LEFT JOIN (SELECT run, sum(inserted + updated) AS wrote FROM pages GROUP BY 1) AS p USING (run)
         WHERE q.there > coalesce(p.wrote, 0)
    """,
    "the rejects there are not those that a page counts": """
        SELECT run, partition, seq, rejected, there
          FROM pages AS p, LATERAL (SELECT count(*) AS there FROM rejects AS r
                                     WHERE r.source = p.source AND r.digest = p.body_digest) AS r
         WHERE rejected <> there AND fetched > 0  -- of an answer that had not changed, nothing was read again
    """,
    "a quote has no listing": """
        SELECT listing_id, observed_at FROM quotes AS q WHERE NOT EXISTS (SELECT FROM listings WHERE id = q.listing_id)
    """,
    "the latest quote of a listing is not its newest": """
        SELECT listing_id, newest, l.observed_at AS latest
          FROM (SELECT listing_id, max(observed_at) AS newest FROM quotes GROUP BY 1) AS q
          FULL JOIN latest_quotes AS l USING (listing_id)
         WHERE newest IS DISTINCT FROM l.observed_at
    """,
    "a checkpoint is not where its committed pages are": """
        SELECT c.source, c.partition, c.version, coalesce(p.pages, 0) AS pages, c.cursor, p.cursor AS of_newest_page
          FROM checkpoints AS c
          LEFT JOIN (SELECT source, partition, count(*) AS pages,
                            (array_agg(cursor ORDER BY committed_at DESC))[1] AS cursor
                       FROM pages GROUP BY 1, 2) AS p USING (source, partition)
         WHERE c.version <> coalesce(p.pages, 0) OR c.cursor IS DISTINCT FROM p.cursor
    """,
    "what an upstream is told we have is not in": """
        SELECT source, partition, etag FROM validators AS v
         WHERE NOT EXISTS (SELECT FROM pages AS p WHERE p.source = v.source AND p.body_digest = v.digest)
    """,
    "a run's pages of a partition are not numbered without a gap": """
        SELECT run, partition, count(*) AS pages, max(seq) AS last FROM pages
         GROUP BY 1, 2 HAVING max(seq) <> count(*) - 1 OR min(seq) <> 0
    """,
    "a run's pages of a partition were not committed in their order": """
        SELECT run, partition, seq FROM (
            SELECT *, lag(committed_at) OVER (PARTITION BY run, partition ORDER BY seq) AS before FROM pages) AS p
         WHERE committed_at <= before
    """,
    "two runs wrote to a partition at the same time": """
        SELECT a.source, a.partition, a.run, b.run AS other
          FROM (SELECT source, partition, run, min(committed_at) AS began, max(committed_at) AS ended
                  FROM pages GROUP BY 1, 2, 3) AS a
          JOIN (SELECT source, partition, run, min(committed_at) AS began, max(committed_at) AS ended
                  FROM pages GROUP BY 1, 2, 3) AS b
            ON a.source = b.source AND a.partition = b.partition AND a.run < b.run
           AND a.began <= b.ended AND b.began <= a.ended
    """,
    "a lease is held for a run that has ended": """
        SELECT c.source, partition, lease_run, status FROM checkpoints AS c JOIN runs ON runs.id = lease_run
         WHERE lease_expires > clock_timestamp() AND status NOT IN ('queued', 'running', 'waiting', 'failed')
    """,
    "a run that ended does not say when, or how": """
        SELECT id, source, status FROM runs
         WHERE (status IN ('succeeded', 'partial', 'failed', 'cancelled')) <> (finished_at IS NOT NULL)
            OR (status = 'failed') <> (error_code IS NOT NULL)
    """,
    "a slot has more than one run": """
        SELECT source, scheduled_for, count(*) FROM runs WHERE scheduled_for IS NOT NULL
         GROUP BY 1, 2 HAVING count(*) > 1
    """,
}

# Counted, not only named: each is a page whose rows were brought in again by the same run.
PAGES_TWICE = """
    SELECT run, partition, request, sum(fetched)::int AS fetched FROM pages
     GROUP BY run, partition, request, body_digest HAVING count(*) > 1
"""

MOST_NAMED = 3


@dataclass(frozen=True)
class Loaded:
    """What there is when nothing has happened: rows by source, and for each asset its listings."""

    content: dict[str, list[Row]]
    assets: list[set[str]]


@dataclass(frozen=True)
class Difference:
    """How the data differs from the undisturbed run's. lost, doubled: rows. broken: in words."""

    lost: int
    doubled: int
    broken: list[str]


def broken(connection: Connection) -> Iterator[str]:
    """Each invariant of the database that does not hold, in words."""
    for what, query in BROKEN_BY.items():
        for row in connection.execute(text(query)).mappings().fetchmany(MOST_NAMED):
            yield f"{what}: " + ", ".join(f"{name} {value}" for name, value in row.items())


def content_by_source(connection: Connection) -> dict[str, list[Row]]:
    """All that was loaded, quotes and rejects, by source; without slugs: whichever source is first names an asset."""
    loaded: dict[str, list[Row]] = {}
    for quote in connection.execute(text(CONTENT)).mappings():
        key = ("quote", quote["source_asset_id"], quote["quote_currency"], quote["observed_at"])
        values = tuple(f"{name}={value}" for name, value in quote.items() if name != "slug")
        loaded.setdefault(quote["source"], []).append((key, values))
    for source, item, reasons in connection.execute(text(REJECTS)):
        # By what it is, not by its place in a page: where a file is cut into pages is a setting.
        loaded.setdefault(source, []).append((("reject", item), (str(reasons),)))
    return loaded


def assets(connection: Connection) -> list[set[str]]:
    """For each asset its listings, whatever it is called."""
    query = "SELECT array_agg(concat_ws(' ', source, source_asset_id, quote_currency)) FROM listings GROUP BY asset"
    return [set(listings) for listings in connection.scalars(text(query))]


def of_other_assets(there: list[set[str]], expected: list[set[str]], sources: Iterable[str]) -> Iterator[str]:
    """Which listings of these sources are not together with those that they would be with, in words."""
    names = tuple(f"{source} " for source in sources)

    def of_these(grouped: list[set[str]]) -> set[frozenset[str]]:
        return {frozenset(one for one in group if one.startswith(names)) for group in grouped}

    for group in sorted(map(sorted, (of_these(there) ^ of_these(expected)) - {frozenset()}))[:MOST_NAMED]:
        yield f"one asset here or undisturbed, not in both: {', '.join(group)}"


def compare(connection: Connection, undisturbed: Mapping[str, list[Row]], sources: Iterable[str]) -> Difference:
    """These sources' data against what it would be if nothing had happened."""
    loaded = content_by_source(connection)
    lost = doubled = 0
    words = []
    for source in sorted(sources):
        if source not in undisturbed:
            words.append(f"{source}: nobody knows what its data is undisturbed")
            continue
        there, expected = loaded.get(source, []), undisturbed[source]
        keys, expected_keys = Counter(key for key, _ in there), Counter(key for key, _ in expected)
        missing, more = expected_keys - keys, keys - expected_keys
        lost, doubled = lost + missing.total(), doubled + more.total()
        words += [
            f"{source}: {count} rows {what}, such as {next(iter(rows))}"
            for what, rows in (("lost", missing), ("too many", more))
            if (count := rows.total())
        ]
        if not (missing or more) and (changed := set(there) - set(expected)):
            words.append(f"{source}: {len(changed)} rows have other values, such as {next(iter(changed))}")
    for page in connection.execute(text(PAGES_TWICE)):
        doubled += page.fetched
        words.append(f"run {page.run} brought in twice: {page.partition!r} {page.request}")
    return Difference(lost, doubled, words)
