"""Add new listings, and assign each to an asset. Plan without a lock, and write in small batches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property

from sqlalchemy import Connection, Engine, text

from sources.record_columns import ListingFields, ListingKey
from tasks.identity.assignment import NEW_ASSET_VERDICT, Plan, known_pairs, plan_assignments, spelling_of
from tasks.identity.decisions import (
    ListingName,
    Overrides,
    add_assets,
    assets_by_slug,
    decision_lock,
    record,
    separate_assets,
)
from tasks.identity.later_decisions import LaterDecisions
from tasks.identity.similarity import Spelling
from tasks.identity.stored_listings import listing_values, read_listings

LISTINGS_PER_TRANSACTION = 250
"""The maximum number of listings to write in a transaction, which holds `decision_lock` for milliseconds."""

MAX_OUTDATED_PLANS = 3
"""After this many plans of which later decisions made most outdated, plan each batch under the lock."""

Listings = Mapping[ListingKey, ListingFields]


def add_listings(
    engine: Engine, source: str, listings: Listings, overrides: Overrides, *, patience: float = 5.0
) -> None:
    """Add the listings that are not stored yet. After an error, batches that were already written remain stored.

    patience: seconds to wait for `decision_lock`, for each batch.
    """
    adder, outdated_plans = ListingAdder(source, listings, overrides), 0
    while adder.remaining:
        if outdated_plans == MAX_OUTDATED_PLANS:
            with decision_lock(engine, patience=patience) as connection:
                adder.plan(connection, max_batches=1)
                adder.write_next(connection)
            continue
        with engine.connect() as connection:
            adder.plan(connection)
        planned = len(adder.remaining)
        while adder.has_batches:
            with decision_lock(engine, patience=patience) as connection:
                adder.write_next(connection)
        outdated_plans += len(adder.remaining) > planned / 2


class ListingAdder:
    """The new listings of a page, which are planned together and written in batches.

    A plan considers all remaining listings, since the listings of a page compete for assets.
    """

    def __init__(self, source: str, listings: Listings, overrides: Overrides):
        self._source, self._overrides = source, overrides
        self.remaining = dict(sorted(listings.items()))
        # Listings that got new assets still compete with the remaining listings, as if all were written together.
        self._rivals: list[ListingFields] = []
        self._batches: list[Sequence[ListingKey]] = []

    @property
    def has_batches(self) -> bool:
        return bool(self._batches)

    def plan(self, connection: Connection, *, max_batches: int | None = None) -> None:
        """Plan the assignments of the remaining listings, or of their first batches.

        Skip listings that another process has added.
        """
        self._later = LaterDecisions(connection)
        batches = list(split_into_batches(self.remaining, LISTINGS_PER_TRANSACTION))[:max_batches]
        stored = read_listings(connection, self._source, [key for batch in batches for key in batch])
        for key in stored:
            del self.remaining[key]
        planned = {key: self.remaining[key] for batch in batches for key in batch if key not in stored}
        self._competitors = Competitors([*self.remaining.values(), *self._rivals])
        rivals = [*self._rivals, *(listing for key, listing in self.remaining.items() if key not in planned)]
        if max_batches:
            symbols = set(map(_symbol_key, planned.values()))
            rivals = [listing for listing in rivals if _symbol_key(listing) in symbols]
        self._plan = plan_assignments(connection, self._source, planned, self._overrides, rivals)
        self._batches = [[key for key in batch if key not in stored] for batch in reversed(batches)]

    def write_next(self, connection: Connection) -> None:
        """Write the next batch under `decision_lock`. Leave listings whose assignment is outdated to the next plan."""
        batch = {key: self.remaining[key] for key in self._batches.pop()}
        self._later.read(connection)
        for key in self._outdated(connection, batch):
            del batch[key]
        if not batch:
            return
        write_listings(connection, self._source, batch, self._plan)
        self._later.skip_own(connection)
        self._rivals += [
            listing for key, listing in batch.items() if self._plan.assignments[key].verdict == NEW_ASSET_VERDICT
        ]
        for key in batch:
            del self.remaining[key]

    def _outdated(self, connection: Connection, batch: Listings) -> list[ListingKey]:
        """Return the listings whose assignment could be another one since later decisions."""
        slugs = {self._plan.assignments[key].slug for key in batch}
        taken = assets_by_slug(connection, slugs & self._plan.new_assets.keys()).keys() | self._later.slugs
        return [
            key
            for key, listing in batch.items()
            if self._plan.assignments[key].slug in taken
            or not self._later.names.isdisjoint(self._related_names(listing))
            or self._competitors.are_affected(listing, self._later)
        ]

    def _related_names(self, listing: ListingFields) -> set[ListingName]:
        name = (self._source, listing.source_asset_id)
        return {name, *known_pairs().get(name, ())}


class Competitors:
    """The listings of a page that compete for assets. Decide whether later decisions affect their assignments."""

    def __init__(self, listings: Sequence[ListingFields]):
        self._listings = listings

    @cached_property
    def _owners(self) -> Mapping[str, Mapping[Hashable, int]]:
        """Return, by the key of a symbol that many listings have, the number of listings with each value."""
        by_key: dict[str, list[Spelling]] = defaultdict(list)
        for spelling in map(spelling_of, self._listings):
            by_key[spelling.key].append(spelling)
        return {
            key: Counter(value for spelling in spellings for value in spelling.matching_values)
            for key, spellings in by_key.items()
            if len(spellings) > LISTINGS_PER_TRANSACTION
        }

    def are_affected(self, listing: ListingFields, later: LaterDecisions) -> bool:
        """Return whether a later decision about the listing's symbol may affect the listing's assignment.

        If the page has many listings with the symbol, a decision about a value that two of them have affects neither:
        an asset that matches two listings equally well is assigned to none. Otherwise other sources could make
        the plan of a thousand listings with one name outdated all the time.
        """
        spelling = spelling_of(listing)
        if spelling.key not in later.values:
            return False
        owners = self._owners.get(spelling.key)
        if owners is None:
            return True
        return any(owners[value] == 1 for value in later.values[spelling.key].intersection(spelling.matching_values))


def write_listings(connection: Connection, source: str, listings: Listings, plan: Plan) -> None:
    """Insert listings and their new assets, and record the decisions about them. Call this under `decision_lock`."""
    assignments = [plan.assignments[key] for key in listings]
    separate_assets(connection, plan.overridden_slugs.intersection(assignment.slug for assignment in assignments))
    add_assets(connection, plan.pop_new_assets({assignment.slug for assignment in assignments}))
    inserted = connection.execute(
        text("""
            INSERT INTO listings (source, source_asset_id, quote_currency, symbol, name, asset, method, confidence,
                                  created_at)
            SELECT :source, new.id, new.currency, new.symbol, new.name, assets.id, new.method, new.confidence,
                   (SELECT service_time())
              FROM unnest(CAST(:ids AS text[]), CAST(:currencies AS text[]), CAST(:symbols AS text[]),
                          CAST(:names AS text[]), CAST(:slugs AS text[]), CAST(:methods AS text[]),
                          CAST(:confidences AS numeric[]))
                AS new(id, currency, symbol, name, slug, method, confidence)
              JOIN assets USING (slug)
            RETURNING id, asset, source_asset_id, quote_currency
        """),
        {
            "source": source,
            **listing_values(list(listings.values())),
            "slugs": [assignment.slug for assignment in assignments],
            "methods": [assignment.verdict.method for assignment in assignments],
            "confidences": [assignment.verdict.confidence for assignment in assignments],
        },
    ).all()
    record(
        connection,
        [(row.id, row.asset) for row in inserted],
        [plan.assignments[row.source_asset_id, row.quote_currency].verdict for row in inserted],
    )


def split_into_batches(listings: Listings, size: int) -> Iterator[list[ListingKey]]:
    """Yield batches of at most `size` keys. Listings with one symbol or id share a batch if they fit.

    After an interruption, the next plan ignores batches that were already written. So listings that compete for an
    asset are written together.
    """
    groups: dict[str, list[ListingKey]] = defaultdict(list)
    group_of_id: dict[str, str] = {}
    for key, listing in listings.items():
        groups[group_of_id.setdefault(listing.source_asset_id, _symbol_key(listing))].append(key)
    batch: list[ListingKey] = []
    # A page that fits one batch is written in the order of its keys.
    for group in [list(listings)] if len(listings) <= size else groups.values():
        if batch and len(batch) + len(group) > size:
            yield batch
            batch = []
        for start in range(0, len(group), size):
            if start:
                yield batch
                batch = []
            batch = batch + group[start : start + size]
    if batch:
        yield batch


def _symbol_key(listing: ListingFields) -> str:
    return Spelling(listing.symbol, "", "").key
