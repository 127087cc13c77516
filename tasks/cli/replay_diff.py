"""What a replay would change: kept pages are read with today's mapping and held against what is there."""

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
from tasks.identity.resolver import listed_ids
from tasks.pipeline.changed_rows import find_changes
from tasks.pipeline.copy_rows import CopyRows, arrange
from tasks.pipeline.normalize import NormalizedPage, normalize_page
from tasks.run_kinds.backfill import with_history
from tasks.runs.parameters import ReplayParameters

AT_ONCE = 100
EXAMPLES = 10

_CORRECTED = f"""
    SELECT listing_id, observed_at, {", ".join(VALUE_FIELDS)}
      FROM unnest(CAST(:listings AS int[]), CAST(:times AS timestamptz[])) AS it(listing_id, observed_at)
      JOIN quotes USING (listing_id, observed_at) WHERE fetched_at <= :fetched_at
"""

_QUARANTINED = text("""
    SELECT item_index FROM rejects WHERE source = :source AND digest = :digest AND state = 'quarantined'
""")


@dataclass
class Diff:
    """What a replay of these pages would do. Of each quote only the first change counts: later pages may repeat it.

    lost: pages of which the body is kept no more. fields: how many quotes each field would change in.
    passing, staying, failing: items in quarantine that would pass or stay there, and others that would come to it.
    """

    pages: int = 0
    lost: int = 0
    items: int = 0
    new: int = 0
    corrected: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    passing: int = 0
    staying: int = 0
    failing: int = 0
    examples: list[str] = field(default_factory=list)

    def write(self, out: TextIO, source: str) -> None:
        lost = f" ({self.lost:,} more are lost: their body is kept no more)" if self.lost else ""
        out.write(f"{source}: read {self.pages:,} pages{lost} with {self.items:,} items again, and wrote nothing.\n")
        each = ", ".join(f"{name} {count:,}" for name, count in self.fields.most_common())
        rows = {
            "quotes that would be new": f"{self.new:,}",
            "quotes that would be corrected": f"{self.corrected:,}" + (f"  ({each})" if each else ""),
            "rejects that would pass": f"{self.passing:,}",
            "rejects that would stay": f"{self.staying:,}",
            "items that would be rejected": f"{self.failing:,}",
        }
        for name, value in rows.items():
            out.write(f"  {name:<31} {value}\n")
        for example in self.examples:
            out.write(f"  e.g. {example}\n")


def diff(engine: Engine, source: Source, chosen: ReplayParameters, clock_skew: float) -> Diff:
    """Raises what `source.parse` raises for a body that it cannot read at all."""
    found = _Finding(with_history(source), clock_skew)
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        before = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        for stored_page in _pages(connection, StoredPages(chosen, source.name, before)):
            body = read_body(connection, source.name, stored_page.digest) if stored_page.has_body else None
            if body is None:
                found.diff.lost += 1
            else:
                about = stored_page.content_type, stored_page.request, stored_page.fetched_at
                found.hold_against(connection, Page(body, *about, cursor=None))
            connection.commit()  # nothing is held back while the next body is read
    return found.diff


def _pages(connection: Connection, stored: StoredPages) -> Iterator[StoredPage]:
    after: PagePosition | None = None
    while pages := list(stored.read(connection, after, AT_ONCE)):
        yield from pages
        after = pages[-1].position


class _Finding:
    """The differences so far, and which quotes and bodies they are of."""

    def __init__(self, source: Source, clock_skew: float):
        self.diff = Diff()
        self._source, self._clock_skew = source, clock_skew
        self._told: set[tuple[int, datetime]] = set()
        self._bodies: set[bytes] = set()
        # What is not listed yet has a number of its own, which no quote has.
        self._unlisted: dict[ListingKey, int] = {}

    def hold_against(self, connection: Connection, page: Page) -> None:
        normalized = normalize_page(self._source, page, self._clock_skew)
        self.diff.pages += 1
        self.diff.items += normalized.fetched
        if page.digest not in self._bodies:
            self._bodies.add(page.digest)
            self._count_rejects(connection, page, normalized)
        if not len(normalized.quotes):
            return
        keys = [key_of(one) for one in normalized.quotes.listings]
        ids = self._ids(connection, keys)
        new, changed = find_changes(
            connection, CopyRows(arrange(normalized.quotes, ids), page.fetched_at, uuid.UUID(int=0))
        )
        self.diff.new += sum(self._is_first(at) for at in new.frame.select("listing_id", "observed_at").iter_rows())
        if len(changed):
            self._tell_corrected(connection, changed, dict(zip(ids, keys, strict=True)))

    def _count_rejects(self, connection: Connection, page: Page, normalized: NormalizedPage) -> None:
        there = set(connection.scalars(_QUARANTINED, {"source": self._source.name, "digest": page.digest}))
        refused = {reject.index for reject in normalized.rejects}
        self.diff.passing += len(there - refused)
        self.diff.staying += len(there & refused)
        self.diff.failing += len(refused - there)

    def _ids(self, connection: Connection, keys: Sequence[ListingKey]) -> list[int]:
        there = listed_ids(connection, self._source.name, keys)
        return [there.get(key) or self._unlisted.setdefault(key, -1 - len(self._unlisted)) for key in keys]

    def _tell_corrected(self, connection: Connection, changed: CopyRows, keys: Mapping[int, ListingKey]) -> None:
        said = {(row["listing_id"], row["observed_at"]): row for row in changed.frame.iter_rows(named=True)}
        listings, times = zip(*said, strict=True)
        there = connection.execute(
            text(_CORRECTED), {"listings": list(listings), "times": list(times), "fetched_at": changed.fetched_at}
        )
        for row in there.mappings():
            key = row["listing_id"], row["observed_at"]
            now = {name: _number(said[key].get(name)) for name in VALUE_FIELDS}
            moved = {name: (row[name], value) for name, value in now.items() if row[name] != value}
            if not moved or not self._is_first(key):
                continue
            self.diff.corrected += 1
            self.diff.fields.update(moved.keys())
            if len(self.diff.examples) < EXAMPLES:
                each = ", ".join(f"{name} {_shown(was)} -> {_shown(will)}" for name, (was, will) in moved.items())
                self.diff.examples.append(f"{' '.join(keys[key[0]])} {key[1]:%Y-%m-%dT%H:%M:%SZ}: {each}")

    def _is_first(self, key: tuple[Any, ...]) -> bool:
        known = len(self._told)
        self._told.add((key[0], key[1]))
        return len(self._told) > known


def _number(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def _shown(value: Decimal | int | None) -> str:
    return "nothing" if value is None else f"{value}"
