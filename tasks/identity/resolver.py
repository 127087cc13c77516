"""Resolve a source's listings to their ids. Add new listings, and assign each to an asset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from sources.record_columns import ListingFields, ListingKey, key_of
from tasks.identity.assignment import Assignment, assign_assets
from tasks.identity.decisions import Overrides, decision_lock, record


@dataclass(frozen=True)
class _StoredListing:
    id: int
    symbol: str
    name: str

    def has_names_of(self, listing: ListingFields) -> bool:
        return (self.symbol, self.name) == (listing.symbol, listing.name)


class ListingResolver:
    """Resolve the listings of one source, and cache their ids for the duration of a slice.

    renames:  whether to store a changed symbol or name of a listing. False for pages with past data.
    patience: seconds to wait while other transactions decide about listings.
    """

    def __init__(
        self, engine: Engine, source: str, overrides: Overrides, *, renames: bool = True, patience: float = 5.0
    ):
        self._engine, self._source, self._overrides, self._renames = engine, source, overrides, renames
        self._patience = patience
        self._known: dict[ListingKey, _StoredListing] = {}

    def resolve(self, listings: Sequence[ListingFields]) -> list[int]:
        """Return the id of each listing, in order. The keys of the listings must be different.

        New listings are committed here, before the page. In the page's transaction, two sources could deadlock.
        """
        by_key = {key_of(listing): listing for listing in listings}
        known = self._known
        if unknown := by_key.keys() - known.keys():
            with self._engine.connect() as connection:
                known |= _stored_listings(connection, self._source, unknown)
        if changed := {key: new for key, new in by_key.items() if self._needs_saving(known.get(key), new)}:
            with decision_lock(self._engine, patience=self._patience) as connection:
                stored = save_listings(connection, self._source, changed, self._overrides)
            known |= stored
        return [known[key].id for key in by_key]

    def forget(self) -> None:
        """Forget all ids, so that they are read again. A call of `resolve` in another thread keeps its own."""
        self._known = {}

    def _needs_saving(self, stored: _StoredListing | None, listing: ListingFields) -> bool:
        return stored is None or (self._renames and not stored.has_names_of(listing))


def save_listings(
    connection: Connection, source: str, listings: Mapping[ListingKey, ListingFields], overrides: Overrides
) -> dict[ListingKey, _StoredListing]:
    """Insert new listings, and update the symbol and name of the others. Return all stored listings.

    Call this under `decision_lock`.
    """
    stored = _stored_listings(connection, source, listings)
    for key, row in stored.items():
        if not row.has_names_of(listings[key]):
            _rename_listing(connection, row.id, listings[key])
    new = [listing for key, listing in sorted(listings.items()) if key not in stored]
    if new:
        _add_listings(connection, source, new, assign_assets(connection, source, new, overrides))
    return _stored_listings(connection, source, listings)


def listed_ids(connection: Connection, source: str, keys: Iterable[ListingKey]) -> dict[ListingKey, int]:
    """Return the ids of the stored listings with these keys, by key."""
    return {key: listing.id for key, listing in _stored_listings(connection, source, keys).items()}


def _stored_listings(
    connection: Connection, source: str, keys: Iterable[ListingKey]
) -> dict[ListingKey, _StoredListing]:
    ids, currencies = zip(*keys, strict=True)
    rows = connection.execute(
        text("""
            SELECT id, source_asset_id, quote_currency, symbol, name FROM listings
              JOIN unnest(CAST(:ids AS text[]), CAST(:currencies AS text[])) AS keys(source_asset_id, quote_currency)
             USING (source_asset_id, quote_currency) WHERE source = :source
        """),
        {"source": source, "ids": list(ids), "currencies": list(currencies)},
    )
    return {(row.source_asset_id, row.quote_currency): _StoredListing(row.id, row.symbol, row.name) for row in rows}


def _add_listings(
    connection: Connection, source: str, listings: Sequence[ListingFields], assignments: Sequence[Assignment]
) -> None:
    """Insert listings, and record the decisions about them."""
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
            "ids": [listing.source_asset_id for listing in listings],
            "currencies": [listing.quote_currency for listing in listings],
            "symbols": [listing.symbol for listing in listings],
            "names": [listing.name for listing in listings],
            "slugs": [assignment.slug for assignment in assignments],
            "methods": [assignment.verdict.method for assignment in assignments],
            "confidences": [assignment.verdict.confidence for assignment in assignments],
        },
    ).all()
    verdicts = {key_of(listing): assignment.verdict for listing, assignment in zip(listings, assignments, strict=True)}
    record(
        connection,
        [(row.id, row.asset) for row in inserted],
        [verdicts[row.source_asset_id, row.quote_currency] for row in inserted],
    )


def _rename_listing(connection: Connection, id_: int, listing: ListingFields) -> None:
    connection.execute(
        text("UPDATE listings SET symbol = :symbol, name = :name WHERE id = :id"),
        {"symbol": listing.symbol, "name": listing.name, "id": id_},
    )
