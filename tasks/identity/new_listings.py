"""Add new listings, and assign each to an asset. Plan without a lock, and write in small batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, Engine, text

from sources.record_columns import ListingFields, ListingKey
from tasks.identity.assignment import NEW_ASSET_VERDICT, Plan, known_pairs, plan_assignments
from tasks.identity.decisions import Overrides, add_assets, assets_by_slug, decision_lock, record, separate_assets
from tasks.identity.later_decisions import LaterDecisions
from tasks.identity.similarity import Spelling
from tasks.identity.stored_listings import listing_values, read_listings

LISTINGS_PER_TRANSACTION = 250
"""The maximum number of listings to write in a transaction, which holds `decision_lock` for milliseconds."""

MAX_OUTDATED_PLANS = 3
"""After this many consecutive plans that later decisions made outdated, plan a batch under the lock."""

Listings = Mapping[ListingKey, ListingFields]


def add_listings(
    engine: Engine, source: str, listings: Listings, overrides: Overrides, *, patience: float = 5.0
) -> None:
    """Add the listings that are not stored yet. After an error, batches that were already written remain stored.

    patience: seconds to wait for `decision_lock`, for each batch.
    """
    adder, outdated = ListingAdder(source, listings, overrides), 0
    while adder.remaining:
        if outdated < MAX_OUTDATED_PLANS:
            with engine.connect() as connection:
                adder.plan(connection)
            outdated = 0 if _write_batches(engine, adder, patience) else outdated + 1
        else:
            with decision_lock(engine, patience=patience) as connection:
                adder.plan(connection)
                adder.write_next(connection)
            outdated = 0


def _write_batches(engine: Engine, adder: ListingAdder, patience: float) -> bool:
    """Write the batches of a plan. Return False if the plan was outdated before its first batch."""
    was_written = not adder.has_batches
    while adder.has_batches:
        with decision_lock(engine, patience=patience) as connection:
            if not adder.write_next(connection):
                break
            was_written = True
    return was_written


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

    def plan(self, connection: Connection) -> None:
        """Plan the assignments of the remaining listings. Skip listings that another process has added."""
        self._later = LaterDecisions(connection)
        for key in read_listings(connection, self._source, self.remaining):
            del self.remaining[key]
        self._plan = plan_assignments(connection, self._source, self.remaining, self._overrides, self._rivals)
        self._batches = list(reversed([*split_into_batches(self.remaining, LISTINGS_PER_TRANSACTION)]))

    def write_next(self, connection: Connection) -> bool:
        """Write the next batch under `decision_lock`. Return False, and write nothing, if its plan is outdated."""
        if not self._batches:
            return True
        batch = {key: self.remaining[key] for key in self._batches[-1]}
        self._later.read(connection)
        if self._is_outdated(connection, batch):
            self._batches = []
            return False
        write_listings(connection, self._source, batch, self._plan)
        self._later.skip_own(connection)
        self._rivals += [
            listing for key, listing in batch.items() if self._plan.assignments[key].verdict == NEW_ASSET_VERDICT
        ]
        self._batches.pop()
        for key in batch:
            del self.remaining[key]
        return True

    def _is_outdated(self, connection: Connection, batch: Listings) -> bool:
        names = {(self._source, id_) for id_, _ in batch}
        paired_names = {pair for name in names for pair in known_pairs().get(name, ())}
        slugs = {self._plan.assignments[key].slug for key in batch}
        keys = {_symbol_key(listing) for listing in batch.values()}
        if self._later.concern(names | paired_names, slugs, keys):
            return True
        return bool(assets_by_slug(connection, slugs & self._plan.new_assets.keys()))


def write_listings(connection: Connection, source: str, listings: Listings, plan: Plan) -> None:
    """Insert listings and their new assets, and record the decisions about them. Call this under `decision_lock`."""
    assignments = [plan.assignments[key] for key in listings]
    separate_assets(connection, plan.overridden_slugs.intersection(assignment.slug for assignment in assignments))
    add_assets(connection, plan.pop_new_assets({assignment.slug for assignment in assignments}))
    inserted = connection.execute(
        text("""
            INSERT INTO listings (source, source_asset_id, quote_currency, symbol, name, asset, method, confidence)
            SELECT :source, new.id, new.currency, new.symbol, new.name, assets.id, new.method, new.confidence
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
