"""Show the changes that a replay would make: parse stored pages again, and compare them with the database."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TextIO

from sqlalchemy import Connection, Engine, text

from sources.contract import Page, Source
from sources.record import VALUE_FIELDS
from sources.record_columns import ListingKey, key_of
from tasks.archive.raw_bodies import read_body
from tasks.archive.stored_pages import PagePosition, StoredPage, StoredPages
from tasks.identity.stored_listings import listed_ids
from tasks.pipeline.changed_rows import find_changes
from tasks.pipeline.copy_rows import CopyRows, arrange
from tasks.pipeline.normalize import NormalizedPage, normalize_page
from tasks.run_kinds.backfill import with_history
from tasks.runs.parameters import ReplayParameters

PAGES_PER_READ = 100
MAX_EXAMPLES = 10

_CORRECTED = f"""
    SELECT listing_id, observed_at, {", ".join(VALUE_FIELDS)}
      FROM unnest(CAST(:listings AS int[]), CAST(:times AS timestamptz[])) AS changed(listing_id, observed_at)
      JOIN quotes USING (listing_id, observed_at) WHERE fetched_at <= :fetched_at
"""

_QUARANTINED = text("""
    SELECT item_index FROM rejects WHERE source = :source AND digest = :digest AND state = 'quarantined'
""")


@dataclass
class Diff:
    """The effects of a replay. Only the first change of each quote is counted, since later pages may repeat it.

    pages:          number of pages that were read.
    missing_bodies: number of pages that were not read, because their body is no longer stored.
    items:          number of items in the pages that were read.
    new:            number of quotes to insert.
    corrected:      number of stored quotes to correct.
    fields:         number of quotes to correct, by field.
    passing:        number of quarantined items that would become quotes.
    staying:        number of quarantined items that would be rejected again.
    failing:        number of other items that would be rejected.
    examples:       descriptions of the first corrections.
    """

    pages: int = 0
    missing_bodies: int = 0
    items: int = 0
    new: int = 0
    corrected: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    passing: int = 0
    staying: int = 0
    failing: int = 0
    examples: list[str] = field(default_factory=list)

    def write(self, out: TextIO, source: str) -> None:
        """Write the report as text."""
        missing = f" ({self.missing_bodies:,} more have no stored body)" if self.missing_bodies else ""
        summary = f"read {self.pages:,} stored pages{missing} with {self.items:,} items; nothing was written"
        out.write(f"{source}: {summary}.\n")
        counts = ", ".join(f"{name} {count:,}" for name, count in self.fields.most_common())
        rows = {
            "quotes that would be new": f"{self.new:,}",
            "quotes that would be corrected": f"{self.corrected:,}" + (f"  ({counts})" if counts else ""),
            "rejects that would pass": f"{self.passing:,}",
            "rejects that would stay": f"{self.staying:,}",
            "items that would be rejected": f"{self.failing:,}",
        }
        for name, value in rows.items():
            out.write(f"  {name:<31} {value}\n")
        for example in self.examples:
            out.write(f"  e.g. {example}\n")


def diff(engine: Engine, source: Source, parameters: ReplayParameters, clock_skew: float) -> Diff:
    """Return the changes that a replay would make. Raise the errors of `source.parse` for an unreadable body.

    clock_skew: seconds that an observation may be later than the fetch of its page.
    """
    comparison = _Comparison(with_history(source), clock_skew)
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        now = connection.execute(text("SELECT service_time()")).scalar_one()
        for stored_page in _pages(connection, StoredPages(parameters, source.name, now)):
            body = read_body(connection, source.name, stored_page.digest) if stored_page.has_body else None
            if body is None:
                comparison.diff.missing_bodies += 1
            else:
                metadata = stored_page.content_type, stored_page.request, stored_page.fetched_at
                comparison.add(connection, Page(body, *metadata, cursor=None))
            connection.commit()  # so that no transaction stays open for the whole diff
    return comparison.diff


def _pages(connection: Connection, stored: StoredPages) -> Iterator[StoredPage]:
    after: PagePosition | None = None
    while pages := list(stored.read(connection, after, PAGES_PER_READ)):
        yield from pages
        after = pages[-1].position


class _Comparison:
    """Collect the differences page by page. Count each quote and each body once."""

    def __init__(self, source: Source, clock_skew: float):
        self.diff = Diff()
        self._source, self._clock_skew = source, clock_skew
        self._counted_quotes: set[tuple[int, datetime]] = set()
        self._counted_bodies: set[bytes] = set()
        # Listings that do not exist yet get negative ids. No stored quote has such an id.
        self._unlisted: dict[ListingKey, int] = {}

    def add(self, connection: Connection, page: Page) -> None:
        """Compare a page with the database, and count the differences."""
        normalized = normalize_page(self._source, page, self._clock_skew)
        self.diff.pages += 1
        self.diff.items += normalized.fetched
        if page.digest not in self._counted_bodies:
            self._counted_bodies.add(page.digest)
            self._count_rejects(connection, page, normalized)
        if not len(normalized.quotes):
            return
        keys = [key_of(listing) for listing in normalized.quotes.listings]
        ids = self._listing_ids(connection, keys)
        new, changed = find_changes(
            connection, CopyRows(arrange(normalized.quotes, ids), page.fetched_at, uuid.UUID(int=0), listings=None)
        )
        self.diff.new += sum(self._count_once(key) for key in new.frame.select("listing_id", "observed_at").iter_rows())
        if len(changed):
            self._count_corrections(connection, changed, dict(zip(ids, keys, strict=True)))

    def _count_rejects(self, connection: Connection, page: Page, normalized: NormalizedPage) -> None:
        # Rejects after the last known item were stored by a version that stored all rejects.
        last = normalized.last_known_index
        before = set(connection.scalars(_QUARANTINED, {"source": self._source.name, "digest": page.digest}))
        before = {index for index in before if index <= last}
        after = {reject.index for reject in normalized.rejects}
        self.diff.passing += len(before - after)
        self.diff.staying += len(before & after)
        self.diff.failing += len(after - before)

    def _listing_ids(self, connection: Connection, keys: Sequence[ListingKey]) -> list[int]:
        ids = listed_ids(connection, self._source.name, keys)
        return [ids.get(key) or self._unlisted.setdefault(key, -1 - len(self._unlisted)) for key in keys]

    def _count_corrections(self, connection: Connection, changed: CopyRows, listings: Mapping[int, ListingKey]) -> None:
        rows = {(row["listing_id"], row["observed_at"]): row for row in changed.frame.iter_rows(named=True)}
        ids, times = zip(*rows, strict=True)
        stored = connection.execute(
            text(_CORRECTED), {"listings": list(ids), "times": list(times), "fetched_at": changed.fetched_at}
        )
        for quote in stored.mappings():
            key = quote["listing_id"], quote["observed_at"]
            values = {name: _decimal(rows[key].get(name)) for name in VALUE_FIELDS}
            corrections = {name: (quote[name], value) for name, value in values.items() if quote[name] != value}
            if not corrections or not self._count_once(key):
                continue
            self.diff.corrected += 1
            self.diff.fields.update(corrections.keys())
            if len(self.diff.examples) < MAX_EXAMPLES:
                texts = ", ".join(f"{name} {_text(old)} -> {_text(new)}" for name, (old, new) in corrections.items())
                self.diff.examples.append(f"{' '.join(listings[key[0]])} {key[1]:%Y-%m-%dT%H:%M:%SZ}: {texts}")

    def _count_once(self, key: tuple[Any, ...]) -> bool:
        """Count the quote (listing_id, observed_at). Return False if it was counted before."""
        count = len(self._counted_quotes)
        self._counted_quotes.add((key[0], key[1]))
        return len(self._counted_quotes) > count


def _decimal(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def _text(value: Decimal | int | None) -> str:
    return "null" if value is None else f"{value}"
