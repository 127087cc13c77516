"""Check the invariants after every fault. Each invariant is a query that returns the rows that violate it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sources.csv.ranges import split_partition
from tests.content import CONTENT

Row = tuple[Hashable, tuple[str, ...]]
"""A loaded quote or reject: its natural key, and its values."""

REJECTS = "SELECT source, item, reasons FROM rejects"

INVARIANTS = {
    "a page's counters do not add up": """
        SELECT run, partition, seq FROM pages
         WHERE fetched <> inserted + updated + unchanged + superseded + deduplicated + rejected + left_out
    """,
    "the number of quotes differs from the number that the pages inserted": """
        SELECT source, coalesce(p.inserted, 0) AS inserted, coalesce(q.quotes, 0) AS quotes
          FROM (SELECT source, sum(inserted) AS inserted FROM pages GROUP BY 1) AS p
          FULL JOIN (SELECT source, count(*) AS quotes FROM quotes JOIN listings ON listings.id = listing_id
                      GROUP BY 1) AS q USING (source)
         WHERE coalesce(p.inserted, 0) <> coalesce(q.quotes, 0)
    """,
    "a run has more quotes than its pages wrote": """
        SELECT q.run, q.quotes, coalesce(p.wrote, 0) AS wrote
          FROM (SELECT run, count(*) AS quotes FROM quotes GROUP BY 1) AS q
          LEFT JOIN (SELECT run, sum(inserted + updated) AS wrote FROM pages GROUP BY 1) AS p USING (run)
         WHERE q.quotes > coalesce(p.wrote, 0)
    """,
    "the number of rejects differs from the number that a page counts": """
        SELECT run, partition, seq, rejected, rejects
          FROM pages AS p, LATERAL (SELECT count(*) AS rejects FROM rejects AS r
                                     WHERE r.source = p.source AND r.digest = p.body_digest) AS r
         WHERE rejected <> rejects AND fetched > 0  -- an unchanged response is not parsed again
    """,
    "a quote has no listing": """
        SELECT listing_id, observed_at FROM quotes AS q WHERE NOT EXISTS (SELECT FROM listings WHERE id = q.listing_id)
    """,
    "the latest quote of a listing is not its newest one": """
        SELECT listing_id, newest, l.observed_at AS latest
          FROM (SELECT listing_id, max(observed_at) AS newest FROM quotes GROUP BY 1) AS q
          FULL JOIN latest_quotes AS l USING (listing_id)
         WHERE newest IS DISTINCT FROM l.observed_at
    """,
    "a checkpoint does not match its committed pages": """
        SELECT c.source, c.partition, c.version, coalesce(p.pages, 0) AS pages, c.cursor, p.cursor AS of_newest_page
          FROM checkpoints AS c
          LEFT JOIN (SELECT source, partition, count(*) AS pages,
                            (array_agg(cursor ORDER BY committed_at DESC))[1] AS cursor
                       FROM pages GROUP BY 1, 2) AS p USING (source, partition)
         WHERE c.version < coalesce(p.pages, 0) OR (c.version > 0 AND p.pages IS NULL)
            OR c.cursor IS DISTINCT FROM p.cursor
    """,
    "a validator belongs to a response that was not loaded": """
        SELECT source, partition, etag FROM validators AS v
         WHERE NOT EXISTS (SELECT FROM pages AS p WHERE p.source = v.source AND p.body_digest = v.digest)
    """,
    "a run's page numbers in a partition have a gap": """
        SELECT run, partition, count(*) AS pages, max(seq) AS last FROM pages
         GROUP BY 1, 2 HAVING max(seq) <> count(*) - 1 OR min(seq) <> 0
    """,
    "a run's pages of a partition were committed out of order": """
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
    "a finished run holds a lease": """
        SELECT c.source, partition, lease_run, status FROM checkpoints AS c JOIN runs ON runs.id = lease_run
         WHERE lease_expires > service_time() AND status NOT IN ('queued', 'running', 'waiting', 'failed')
    """,
    "a finished run lacks its end or its error code": """
        SELECT id, source, status FROM runs
         WHERE (status IN ('succeeded', 'partial', 'failed', 'cancelled')) <> (finished_at IS NOT NULL)
            OR (status = 'failed') <> (error_code IS NOT NULL)
    """,
    "a slot has more than one run": """
        SELECT source, scheduled_for, count(*) FROM runs WHERE scheduled_for IS NOT NULL
         GROUP BY 1, 2 HAVING count(*) > 1
    """,
}

# Each row is a page that the same run loaded more than once. Its rows count as duplicated.
DUPLICATED_PAGES = """
    SELECT run, partition, request, sum(fetched)::int AS fetched FROM pages
     GROUP BY run, partition, request, body_digest HAVING count(*) > 1
"""

MAX_ROWS_SHOWN = 3


@dataclass(frozen=True)
class Baseline:
    """The data after undisturbed runs. content: the rows of each source. assets: the listings of each asset."""

    content: dict[str, list[Row]]
    assets: list[set[str]]


@dataclass(frozen=True)
class Difference:
    """The differences from the data of undisturbed runs. lost, duplicated: numbers of rows. failures: descriptions."""

    lost: int
    duplicated: int
    failures: list[str]


def violations(connection: Connection) -> Iterator[str]:
    """Yield a message for each violated invariant."""
    for name, query in INVARIANTS.items():
        for row in connection.execute(text(query)).mappings().fetchmany(MAX_ROWS_SHOWN):
            yield f"{name}: " + ", ".join(f"{column} {value}" for column, value in row.items())


def content_by_source(connection: Connection) -> dict[str, list[Row]]:
    """Return the quotes and rejects of each source. Omit slugs, since they depend on which source loads first."""
    loaded: dict[str, list[Row]] = {}
    for quote in connection.execute(text(CONTENT)).mappings():
        key = ("quote", quote["source_asset_id"], quote["quote_currency"], quote["observed_at"])
        values = tuple(f"{name}={value}" for name, value in quote.items() if name != "slug")
        loaded.setdefault(quote["source"], []).append((key, values))
    for source, item, reasons in connection.execute(text(REJECTS)):
        # Identify a reject by its item, not by its position in a page, since the page size is a setting.
        loaded.setdefault(source, []).append((("reject", item), (str(reasons),)))
    return loaded


def assets(connection: Connection) -> list[set[str]]:
    """Return the listings of each asset, without the asset's name."""
    query = "SELECT array_agg(concat_ws(' ', source, source_asset_id, quote_currency)) FROM listings GROUP BY asset"
    return [set(listings) for listings in connection.scalars(text(query))]


def asset_differences(actual: list[set[str]], expected: list[set[str]], sources: Iterable[str]) -> Iterator[str]:
    """Yield a message for each group of listings that is one asset in only one of `actual` and `expected`."""
    prefixes = tuple(f"{source} " for source in sources)

    def groups(listings_by_asset: list[set[str]]) -> set[frozenset[str]]:
        return {frozenset(name for name in listings if name.startswith(prefixes)) for listings in listings_by_asset}

    for group in sorted(map(sorted, (groups(actual) ^ groups(expected)) - {frozenset()}))[:MAX_ROWS_SHOWN]:
        yield f"one asset either here or in the undisturbed run, but not in both: {', '.join(group)}"


def compare(
    connection: Connection,
    expected: Mapping[str, list[Row]],
    sources: Iterable[str],
    changed_files: Collection[str] = (),
) -> Difference:
    """Compare the data of these sources with the data of undisturbed runs.

    changed_files: the files that changed during the runs. A run may load their pages again.
    """
    content = content_by_source(connection)
    lost = duplicated = 0
    failures = []
    for source in sorted(sources):
        if source not in expected:
            failures.append(f"{source}: no rows of an undisturbed run are known")
            continue
        rows, expected_rows = content.get(source, []), expected[source]
        keys, expected_keys = Counter(key for key, _ in rows), Counter(key for key, _ in expected_rows)
        missing, extra = expected_keys - keys, keys - expected_keys
        lost, duplicated = lost + missing.total(), duplicated + extra.total()
        failures += [
            f"{source}: {count} rows {problem}, such as {next(iter(keys))}"
            for problem, keys in (("lost", missing), ("too many", extra))
            if (count := keys.total())
        ]
        if not (missing or extra) and (changed := set(rows) - set(expected_rows)):
            failures.append(f"{source}: {len(changed)} rows have other values, such as {next(iter(changed))}")
    for page in connection.execute(text(DUPLICATED_PAGES)):
        if split_partition(page.partition)[0] in changed_files:
            continue
        duplicated += page.fetched
        failures.append(f"run {page.run} loaded twice: {page.partition!r} {page.request}")
    return Difference(lost, duplicated, failures)
