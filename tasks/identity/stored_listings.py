"""Read and rename the stored listings of a source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sources.record_columns import ListingFields, ListingKey


@dataclass(frozen=True)
class StoredListing:
    """A row of `listings`, without its source and key."""

    id: int
    symbol: str
    name: str

    def has_names_of(self, listing: ListingFields) -> bool:
        return (self.symbol, self.name) == (listing.symbol, listing.name)


def read_listings(connection: Connection, source: str, keys: Iterable[ListingKey]) -> dict[ListingKey, StoredListing]:
    """Return the stored listings with these keys, by key."""
    ids, currencies = zip(*keys, strict=True)
    rows = connection.execute(
        text("""
            SELECT id, source_asset_id, quote_currency, symbol, name FROM listings
              JOIN unnest(CAST(:ids AS text[]), CAST(:currencies AS text[])) AS keys(source_asset_id, quote_currency)
             USING (source_asset_id, quote_currency) WHERE source = :source
        """),
        {"source": source, "ids": list(ids), "currencies": list(currencies)},
    )
    return {(row.source_asset_id, row.quote_currency): StoredListing(row.id, row.symbol, row.name) for row in rows}


def listed_ids(connection: Connection, source: str, keys: Iterable[ListingKey]) -> dict[ListingKey, int]:
    """Return the ids of the stored listings with these keys, by key."""
    return {key: listing.id for key, listing in read_listings(connection, source, keys).items()}


def rename_listings(connection: Connection, source: str, listings: Sequence[tuple[ListingKey, ListingFields]]) -> None:
    """Store the symbols and names of these listings. Call this under `decision_lock`: its updates could deadlock."""
    connection.execute(
        text("""
            UPDATE listings SET symbol = new.symbol, name = new.name
              FROM unnest(CAST(:ids AS text[]), CAST(:currencies AS text[]), CAST(:symbols AS text[]),
                          CAST(:names AS text[])) AS new(id, currency, symbol, name)
             WHERE source = :source AND source_asset_id = new.id AND quote_currency = new.currency
        """),
        {"source": source, **listing_values([listing for _, listing in listings])},
    )


def listing_values(listings: Sequence[ListingFields]) -> Mapping[str, list[str]]:
    """Return the fields of listings as arrays for a statement: ids, currencies, symbols and names."""
    return {
        "ids": [listing.source_asset_id for listing in listings],
        "currencies": [listing.quote_currency for listing in listings],
        "symbols": [listing.symbol for listing in listings],
        "names": [listing.name for listing in listings],
    }
