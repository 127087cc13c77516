"""Resolve a source's listings to their ids. Add new listings, and store changed symbols and names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Engine

from sources.record_columns import ListingFields, ListingKey, key_of
from tasks.identity.decisions import Overrides, decision_lock
from tasks.identity.new_listings import LISTINGS_PER_TRANSACTION, add_listings
from tasks.identity.stored_listings import StoredListing, read_listings, rename_listings


class ListingResolver:
    """Resolve the listings of one source, and cache their ids for the duration of a slice.

    renames:  whether to store a changed symbol or name of a listing. False for pages with past data.
    patience: seconds to wait for `decision_lock`, which other transactions may hold.
    """

    def __init__(
        self, engine: Engine, source: str, overrides: Overrides, *, renames: bool = True, patience: float = 5.0
    ):
        self._engine, self._source, self._overrides, self._renames = engine, source, overrides, renames
        self._patience = patience
        self._known: dict[ListingKey, StoredListing] = {}

    def resolve(self, listings: Sequence[ListingFields]) -> list[int]:
        """Return the id of each listing, in order. The keys of the listings must be different.

        New listings are committed here, before the page. In the page's transaction, two sources could deadlock.
        """
        by_key = {key_of(listing): listing for listing in listings}
        known = self._known
        self._read(known, by_key.keys() - known.keys())
        if changed := sorted(key for key, listing in by_key.items() if self._is_renamed(known.get(key), listing)):
            self._rename(known, {key: by_key[key] for key in changed})
        if new := {key: listing for key, listing in by_key.items() if key not in known}:
            add_listings(self._engine, self._source, new, self._overrides, patience=self._patience)
            self._read(known, new.keys())
        return [known[key].id for key in by_key]

    def forget(self) -> None:
        """Forget all ids, so that they are read again. A call of `resolve` in another thread keeps its own."""
        self._known = {}

    def _read(self, known: dict[ListingKey, StoredListing], keys: Collection[ListingKey]) -> None:
        if keys:
            with self._engine.connect() as connection:
                known |= read_listings(connection, self._source, keys)

    def _is_renamed(self, stored: StoredListing | None, listing: ListingFields) -> bool:
        return self._renames and stored is not None and not stored.has_names_of(listing)

    def _rename(self, known: dict[ListingKey, StoredListing], changed: Mapping[ListingKey, ListingFields]) -> None:
        listings = list(changed.items())
        for start in range(0, len(listings), LISTINGS_PER_TRANSACTION):
            with decision_lock(self._engine, patience=self._patience) as connection:
                rename_listings(connection, self._source, listings[start : start + LISTINGS_PER_TRANSACTION])
        self._read(known, set(changed))
