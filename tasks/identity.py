"""Which asset a listing is of: a known pair of ids, else the same symbol and the same normalised name.

Never the symbol alone: thousands of coins share theirs. In doubt two assets stay two.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from sources.record import Quote

KNOWN_PAIRS = Path(__file__).with_name("known_pairs.csv")

# One lock for all sources: two that meet Bitcoin at once must not make it twice.
_RESOLVE_LOCK = 7_274_652


ListingKey = tuple[str, str]
"""source_asset_id and quote_currency: a listing's key within its source."""


@dataclass(frozen=True)
class Decision:
    """The asset a listing is of, how that was decided, and how surely (0 to 1)."""

    asset: int
    method: str
    confidence: float


@dataclass(frozen=True)
class _Listing:
    id: int
    symbol: str
    name: str


class Listings:
    """The ids of a source's listings, resolved as they are met and remembered for the length of a slice."""

    def __init__(self, engine: Engine, source: str):
        self._engine, self._source = engine, source
        self._known: dict[ListingKey, _Listing] = {}

    def resolve(self, quotes: Iterable[Quote]) -> Mapping[ListingKey, int]:
        """The id of each quote's listing.

        New listings are committed here, before the page: inside the page's transaction, two sources would deadlock.
        """
        met = {(quote.source_asset_id, quote.quote_currency): quote for quote in quotes}
        if unmet := met.keys() - self._known.keys():
            with self._engine.connect() as connection:
                self._known |= _listed(connection, self._source, unmet)
        if news := {key: quote for key, quote in met.items() if not _says_the_same(self._known.get(key), quote)}:
            with self._engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _RESOLVE_LOCK})
                learned = _learn(connection, self._source, news)
            self._known |= learned
        return {key: self._known[key].id for key in met}


def _learn(connection: Connection, source: str, news: Mapping[ListingKey, Quote]) -> dict[ListingKey, _Listing]:
    """The listings that `news` speaks of, added or renamed where the table does not say the same; in sorted order."""
    listed = _listed(connection, source, news)
    for key, quote in sorted(news.items()):
        if key not in listed:
            listing = _add_listing(connection, source, quote, decide_asset(connection, source, quote))
        else:
            listing = listed[key].id
            if not _says_the_same(listed[key], quote):
                _rename_listing(connection, listing, quote)
        listed[key] = _Listing(listing, quote.symbol, quote.name)
    return listed


def _says_the_same(listing: _Listing | None, quote: Quote) -> bool:
    return listing is not None and (listing.symbol, listing.name) == (quote.symbol, quote.name)


def decide_asset(connection: Connection, source: str, quote: Quote) -> Decision:
    """The asset of a listing that was not met before; makes one where none fits."""
    asset = _asset_of(connection, source, quote.source_asset_id)
    if asset is not None:
        return Decision(asset, "same_id", 1)
    for other_source, other_id in known_pairs().get((source, quote.source_asset_id), ()):
        asset = _asset_of(connection, other_source, other_id)
        if asset is not None:
            return Decision(asset, "known_pair", 1)
    named_alike = _assets_named_alike(connection, source, quote)
    if len(named_alike) == 1:
        return Decision(named_alike[0], "symbol_and_name", 0.95)
    return Decision(_add_asset(connection, quote), "new", 1)


def normalise_name(name: str) -> str:
    """A name without case, width, spaces and punctuation: "USD  Coin." and "usd coin" are the same."""
    return "".join(char for char in unicodedata.normalize("NFKC", name).casefold() if char.isalnum())


@cache
def known_pairs() -> Mapping[tuple[str, str], tuple[tuple[str, str], ...]]:
    """For (source, source_asset_id) the ids that other sources have for the same asset."""
    with KNOWN_PAIRS.open(newline="", encoding="utf-8") as file:
        rows = [[(source, id_) for source, id_ in row.items() if id_] for row in csv.DictReader(file)]
    return {one: tuple(other for other in row if other != one) for row in rows for one in row}


def _listed(connection: Connection, source: str, keys: Iterable[ListingKey]) -> dict[ListingKey, _Listing]:
    ids, currencies = zip(*keys, strict=True)
    rows = connection.execute(
        text("""
            SELECT id, source_asset_id, quote_currency, symbol, name FROM listings
              JOIN unnest(CAST(:ids AS text[]), CAST(:currencies AS text[])) AS it(source_asset_id, quote_currency)
             USING (source_asset_id, quote_currency) WHERE source = :source
        """),
        {"source": source, "ids": list(ids), "currencies": list(currencies)},
    )
    return {(row.source_asset_id, row.quote_currency): _Listing(row.id, row.symbol, row.name) for row in rows}


def _asset_of(connection: Connection, source: str, source_asset_id: str) -> int | None:
    asset: int | None = connection.scalar(
        text("SELECT asset FROM listings WHERE source = :source AND source_asset_id = :id LIMIT 1"),
        {"source": source, "id": source_asset_id},
    )
    return asset


def _assets_named_alike(connection: Connection, source: str, quote: Quote) -> list[int]:
    """Assets with the same symbol and the same normalised name that the source does not list under another id."""
    name = normalise_name(quote.name)
    if not name:
        return []
    rows = connection.execute(
        text("""
            SELECT id, name FROM assets
             WHERE upper(symbol) = upper(:symbol)
               AND NOT EXISTS (SELECT FROM listings WHERE listings.asset = assets.id AND listings.source = :source)
        """),
        {"symbol": quote.symbol, "source": source},
    )
    return [row.id for row in rows if normalise_name(row.name) == name]


def _add_asset(connection: Connection, quote: Quote) -> int:
    asset: int = connection.execute(
        text("INSERT INTO assets (slug, symbol, name) VALUES (:slug, :symbol, :name) RETURNING id"),
        {"slug": _free_slug(connection, quote), "symbol": quote.symbol.upper(), "name": quote.name},
    ).scalar_one()
    return asset


def _free_slug(connection: Connection, quote: Quote) -> str:
    """`bitcoin`; `bitcoin-btc2` where that is taken; then `bitcoin-btc2-2`, `-3`, …"""
    name = _slug(quote.name) or _slug(quote.source_asset_id) or "asset"
    with_symbol = f"{name}-{_slug(quote.symbol)}".rstrip("-")
    taken = set(
        connection.scalars(
            text("SELECT slug FROM assets WHERE slug = :name OR slug = :with_symbol OR slug LIKE :numbered"),
            {"name": name, "with_symbol": with_symbol, "numbered": f"{with_symbol}-%"},
        )
    )
    candidates = (name, with_symbol, *(f"{with_symbol}-{number}" for number in range(2, len(taken) + 3)))
    return next(slug for slug in candidates if slug not in taken)


def _slug(words: str) -> str:
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _add_listing(connection: Connection, source: str, quote: Quote, decision: Decision) -> int:
    listing: int = connection.execute(
        text("""
            INSERT INTO listings (source, source_asset_id, quote_currency, symbol, name, asset, method, confidence)
            VALUES (:source, :source_asset_id, :quote_currency, :symbol, :name, :asset, :method, :confidence)
            RETURNING id
        """),
        {
            "source": source,
            "source_asset_id": quote.source_asset_id,
            "quote_currency": quote.quote_currency,
            "symbol": quote.symbol,
            "name": quote.name,
            **vars(decision),
        },
    ).scalar_one()
    return listing


def _rename_listing(connection: Connection, listing: int, quote: Quote) -> None:
    connection.execute(
        text("UPDATE listings SET symbol = :symbol, name = :name WHERE id = :listing"),
        {"symbol": quote.symbol, "name": quote.name, "listing": listing},
    )
