"""Which asset a listing is of: a known pair of ids, else the same symbol and a name or an id that is alike.

Never the symbol alone: thousands of coins share theirs. In doubt two assets stay two.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from sources.judge import Listed
from store.tables import SYMBOL_KEY
from tasks.likeness import Spelling, match
from tasks.quotes import ListingKey, key_of

KNOWN_PAIRS = Path(__file__).with_name("known_pairs.csv")

# One lock for all sources: two that meet Bitcoin at once must not make it twice.
_RESOLVE_LOCK = 7_274_652


@dataclass(frozen=True)
class Decision:
    """The asset that a listing is of, by its slug; how that was decided, and how surely (0 to 1)."""

    slug: str
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

    def resolve(self, listed: Sequence[Listed]) -> list[int]:
        """The id of each listing, of which no two have the same key.

        New ones are committed here, before the page: inside the page's transaction, two sources would deadlock.
        """
        met = {key_of(one): one for one in listed}
        if unmet := met.keys() - self._known.keys():
            with self._engine.connect() as connection:
                self._known |= _listed(connection, self._source, unmet)
        if news := {key: one for key, one in met.items() if not _says_the_same(self._known.get(key), one)}:
            with self._engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _RESOLVE_LOCK})
                learned = _learn(connection, self._source, news)
            self._known |= learned
        return [self._known[key].id for key in met]


def _learn(connection: Connection, source: str, news: Mapping[ListingKey, Listed]) -> dict[ListingKey, _Listing]:
    """The listings that `news` speaks of, added or renamed where the table does not say the same; in sorted order."""
    listed = _listed(connection, source, news)
    for key, listing in listed.items():
        if not _says_the_same(listing, news[key]):
            _rename_listing(connection, listing.id, news[key])
    new = [one for key, one in sorted(news.items()) if key not in listed]
    if new:
        _add_listings(connection, source, new, decide_assets(connection, source, new))
    return _listed(connection, source, news)


def _says_the_same(listing: _Listing | None, listed: Listed) -> bool:
    return listing is not None and (listing.symbol, listing.name) == (listed.symbol, listed.name)


def decide_assets(connection: Connection, source: str, listed: Sequence[Listed]) -> list[Decision]:
    """The asset of each listing, none of which was met before; makes one where none fits."""
    known = {id_: Decision(slug, "same_id", 1) for id_, slug in _assets_by_id(connection, source, listed).items()}
    by_pair = _assets_by_known_pair(connection, source, listed)
    paired = {id_: Decision(slug, "known_pair", 1) for id_, slug in by_pair.items() if id_ not in known}
    settled = known.keys() | paired.keys()
    alike = _assets_alike(connection, source, [one for one in listed if one.source_asset_id not in settled])
    slugs = _Slugs(connection, listed)
    decisions, new = [], []
    for one in listed:
        id_ = one.source_asset_id
        decision = known.get(id_) or paired.get(id_) or alike.get(id_)
        if decision is None:
            decision = Decision(slugs.free(one), "new", 1)
            new.append((decision.slug, one))
        known[id_] = Decision(decision.slug, "same_id", 1)
        decisions.append(decision)
    _add_assets(connection, new)
    return decisions


def _assets_alike(connection: Connection, source: str, listed: Iterable[Listed]) -> dict[str, Decision]:
    """By source_asset_id, for those that are surely enough an asset that the source does not list."""
    spellings = {one.source_asset_id: _spelling(one) for one in reversed(list(listed))}
    rows = connection.execute(
        text(f"""
            WITH alike AS (SELECT * FROM listings WHERE {SYMBOL_KEY} = ANY(:keys))
            SELECT alike.symbol, alike.name, source_asset_id, slug FROM alike JOIN assets ON assets.id = alike.asset
             WHERE NOT EXISTS (SELECT FROM listings AS own WHERE own.asset = alike.asset AND own.source = :source)
        """),
        {"keys": list({one.key for one in spellings.values()}), "source": source},
    )
    assets: dict[str, list[Spelling]] = {}
    for row in rows:
        assets.setdefault(row.slug, []).append(Spelling(row.symbol, row.name, row.source_asset_id))
    matched = match(spellings, assets)
    return {id_: Decision(slug, alike.method, alike.confidence) for id_, (slug, alike) in matched.items()}


def _spelling(one: Listed) -> Spelling:
    return Spelling(one.symbol, one.name, one.source_asset_id)


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


def _assets_by_id(connection: Connection, source: str, listed: Iterable[Listed]) -> dict[str, str]:
    """By source_asset_id, for what the source lists already: in another quote currency, say."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT source_asset_id, slug FROM listings JOIN assets ON assets.id = listings.asset
             WHERE source = :source AND source_asset_id = ANY(:ids)
        """),
        {"source": source, "ids": [one.source_asset_id for one in listed]},
    )
    return {row.source_asset_id: row.slug for row in rows}


def _assets_by_known_pair(connection: Connection, source: str, listed: Iterable[Listed]) -> dict[str, str]:
    """By source_asset_id, for those of which another source lists the known counterpart."""
    found = {}
    for id_ in {one.source_asset_id for one in listed}:
        for other_source, other_id in known_pairs().get((source, id_), ()):
            slug = connection.scalar(
                text("""
                    SELECT slug FROM listings JOIN assets ON assets.id = listings.asset
                     WHERE source = :source AND source_asset_id = :id LIMIT 1
                """),
                {"source": other_source, "id": other_id},
            )
            if slug:
                found[id_] = slug
    return found


class _Slugs:
    """Slugs that no asset has: `bitcoin`; where that is taken `bitcoin-btc2`; then `bitcoin-btc2-2`, `-3`, …"""

    def __init__(self, connection: Connection, listed: Iterable[Listed]):
        self._connection = connection
        self._taken = self._among({slug for one in listed for slug in self._plain(one)})

    def free(self, one: Listed) -> str:
        """The first that is free; it is taken from now on."""
        slug = next(slug for slug in self._candidates(one) if slug not in self._taken)
        self._taken.add(slug)
        return slug

    def _candidates(self, one: Listed) -> Iterator[str]:
        yield from self._plain(one)
        with_symbol = self._plain(one)[-1]
        for number in count(2):
            slug = f"{with_symbol}-{number}"
            self._taken |= self._among({slug})
            yield slug

    def _plain(self, one: Listed) -> tuple[str, str]:
        name = _slug(one.name) or _slug(one.source_asset_id) or "asset"
        return name, f"{name}-{_slug(one.symbol)}".rstrip("-")

    def _among(self, slugs: Collection[str]) -> set[str]:
        taken = self._connection.scalars(
            text("SELECT slug FROM assets WHERE slug = ANY(:slugs)"), {"slugs": list(slugs)}
        )
        return set(taken)


def _add_assets(connection: Connection, new: Sequence[tuple[str, Listed]]) -> None:
    connection.execute(
        text("""
            INSERT INTO assets (slug, symbol, name)
            SELECT * FROM unnest(CAST(:slugs AS text[]), CAST(:symbols AS text[]), CAST(:names AS text[]))
        """),
        {
            "slugs": [slug for slug, _ in new],
            "symbols": [one.symbol.upper() for _, one in new],
            "names": [one.name for _, one in new],
        },
    )


def _slug(words: str) -> str:
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _add_listings(connection: Connection, source: str, listed: Sequence[Listed], decisions: Sequence[Decision]) -> None:
    connection.execute(
        text("""
            INSERT INTO listings (source, source_asset_id, quote_currency, symbol, name, asset, method, confidence)
            SELECT :source, it.id, it.currency, it.symbol, it.name, assets.id, it.method, it.confidence
              FROM unnest(CAST(:ids AS text[]), CAST(:currencies AS text[]), CAST(:symbols AS text[]),
                          CAST(:names AS text[]), CAST(:slugs AS text[]), CAST(:methods AS text[]),
                          CAST(:confidences AS numeric[]))
                AS it(id, currency, symbol, name, slug, method, confidence)
              JOIN assets USING (slug)
        """),
        {
            "source": source,
            "ids": [one.source_asset_id for one in listed],
            "currencies": [one.quote_currency for one in listed],
            "symbols": [one.symbol for one in listed],
            "names": [one.name for one in listed],
            "slugs": [decision.slug for decision in decisions],
            "methods": [decision.method for decision in decisions],
            "confidences": [decision.confidence for decision in decisions],
        },
    )


def _rename_listing(connection: Connection, listing: int, one: Listed) -> None:
    connection.execute(
        text("UPDATE listings SET symbol = :symbol, name = :name WHERE id = :listing"),
        {"symbol": one.symbol, "name": one.name, "listing": listing},
    )
