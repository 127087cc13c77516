"""Which asset a listing is of, when it is first met: what people settled beforehand, a known pair of ids, a likeness.

Never the symbol alone: thousands of coins share theirs. In doubt two assets stay two (tasks/identity/rematch.py).
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Engine, text

from sources.record_columns import ListingFields, ListingKey, key_of
from store.tables import SYMBOL_KEY
from tasks.identity.decisions import (
    OVERRIDE,
    OVERRIDES,
    SAME_ID,
    Overrides,
    Verdict,
    add_assets,
    assets_by_slug,
    decision_lock,
    record,
)
from tasks.identity.similarity import Spelling, match
from tasks.identity.slugs import Slugs

KNOWN_PAIRS = Path(__file__).with_name("known_pairs.csv")

BY = "resolver"
"""Who decided it, where a rule did when the listing was first met."""


class Met(NamedTuple):
    """The asset that a listing is of, by its slug, and how that was decided."""

    slug: str
    decided: Verdict


FOLLOWS = Verdict(SAME_ID, BY)
NEW = Verdict("new", BY)


@dataclass(frozen=True)
class _Listing:
    id: int
    symbol: str
    name: str


class ListingResolver:
    """The ids of a source's listings, resolved as they are met and remembered for the length of a slice.

    renames: a listing takes the name that it is met by. Not for pages of the past.
    """

    def __init__(self, engine: Engine, source: str, overrides: Overrides, *, renames: bool = True):
        self._engine, self._source, self._overrides, self._renames = engine, source, overrides, renames
        self._known: dict[ListingKey, _Listing] = {}

    def resolve(self, listed: Sequence[ListingFields]) -> list[int]:
        """The id of each listing, of which no two have the same key.

        New ones are committed here, before the page: inside the page's transaction, two sources would deadlock.
        """
        met = {key_of(one): one for one in listed}
        if unmet := met.keys() - self._known.keys():
            with self._engine.connect() as connection:
                self._known |= _listed(connection, self._source, unmet)
        if news := {key: one for key, one in met.items() if self._is_news(key, one)}:
            with decision_lock(self._engine) as connection:
                learned = _learn(connection, self._source, news, self._overrides)
            self._known |= learned
        return [self._known[key].id for key in met]

    def _is_news(self, key: ListingKey, listed: ListingFields) -> bool:
        known = self._known.get(key)
        return known is None or (self._renames and not _says_the_same(known, listed))


def _learn(
    connection: Connection, source: str, news: Mapping[ListingKey, ListingFields], overrides: Overrides
) -> dict[ListingKey, _Listing]:
    """The listings that `news` speaks of, added or renamed where the table does not say the same; in sorted order."""
    listed = _listed(connection, source, news)
    for key, listing in listed.items():
        if not _says_the_same(listing, news[key]):
            _rename_listing(connection, listing.id, news[key])
    new = [one for key, one in sorted(news.items()) if key not in listed]
    if new:
        _add_listings(connection, source, new, decide_assets(connection, source, new, overrides))
    return _listed(connection, source, news)


def _says_the_same(listing: _Listing | None, listed: ListingFields) -> bool:
    return listing is not None and (listing.symbol, listing.name) == (listed.symbol, listed.name)


def decide_assets(
    connection: Connection, source: str, listed: Sequence[ListingFields], overrides: Overrides
) -> list[Met]:
    """The asset of each listing, none of which was met before; makes one where none fits."""
    settled = _settled(connection, source, listed, overrides)
    given = {met.slug for met in settled.values()}
    alike = _assets_alike(connection, source, [one for one in listed if one.source_asset_id not in settled], given)
    slugs = Slugs(connection, listed)
    met, new = [], []
    for one in listed:
        id_ = one.source_asset_id
        found = settled.get(id_) or alike.get(id_)
        if found is None:
            found = Met(slugs.free(one), NEW)
            new.append((found.slug, one))
        settled[id_] = found if found.decided.method == OVERRIDE else Met(found.slug, FOLLOWS)
        met.append(found)
    add_assets(connection, new)
    return met


def _settled(
    connection: Connection, source: str, listed: Sequence[ListingFields], overrides: Overrides
) -> dict[str, Met]:
    """By source_asset_id, for those of which it need not be asked what they are like."""
    by_pair = _assets_by_known_pair(connection, source, listed)
    by_id = {id_: Met(slug, FOLLOWS) for id_, slug in _assets_by_id(connection, source, listed).items()}
    return {**by_pair, **by_id, **_assets_by_override(connection, source, listed, overrides)}


def _assets_by_override(
    connection: Connection, source: str, listed: Sequence[ListingFields], overrides: Overrides
) -> dict[str, Met]:
    """By source_asset_id, for those that people have settled; the asset is made, or has listings again."""
    named = {one.source_asset_id: one for one in listed if (source, one.source_asset_id) in overrides}
    wanted = {id_: overrides[source, id_] for id_ in named}
    slugs = [override.asset for override in wanted.values()]
    there = assets_by_slug(connection, slugs)
    connection.execute(
        text("UPDATE assets SET merged_into = NULL WHERE slug = ANY(:slugs) AND merged_into IS NOT NULL"),
        {"slugs": slugs},
    )
    missing = {override.asset: named[id_] for id_, override in wanted.items() if override.asset not in there}
    add_assets(connection, list(missing.items()))
    return {
        id_: Met(override.asset, Verdict(OVERRIDE, OVERRIDES, reason=override.reason))
        for id_, override in wanted.items()
    }


def _assets_alike(
    connection: Connection, source: str, listed: Iterable[ListingFields], given: Collection[str]
) -> dict[str, Met]:
    """By source_asset_id, for those that are surely enough an asset that the source does not list, nor is given one."""
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
        if row.slug not in given:
            assets.setdefault(row.slug, []).append(Spelling(row.symbol, row.name, row.source_asset_id))
    matched = match(spellings, assets)
    return {
        id_: Met(slug, Verdict(alike.method, BY, alike.confidence, {"like": like.told}))
        for id_, (slug, alike, like) in matched.items()
    }


def _spelling(one: ListingFields) -> Spelling:
    return Spelling(one.symbol, one.name, one.source_asset_id)


@cache
def known_pairs() -> Mapping[tuple[str, str], tuple[tuple[str, str], ...]]:
    """For (source, source_asset_id) the ids that other sources have for the same asset."""
    with KNOWN_PAIRS.open(newline="", encoding="utf-8") as file:
        rows = [[(source, id_) for source, id_ in row.items() if id_] for row in csv.DictReader(file)]
    return {one: tuple(other for other in row if other != one) for row in rows for one in row}


def listed_ids(connection: Connection, source: str, keys: Iterable[ListingKey]) -> dict[ListingKey, int]:
    """The ids of those that are listed."""
    return {key: listing.id for key, listing in _listed(connection, source, keys).items()}


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


def _assets_by_id(connection: Connection, source: str, listed: Iterable[ListingFields]) -> dict[str, str]:
    """By source_asset_id, for what the source lists already: in another quote currency, say."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT source_asset_id, slug FROM listings JOIN assets ON assets.id = listings.asset
             WHERE source = :source AND source_asset_id = ANY(:ids)
        """),
        {"source": source, "ids": [one.source_asset_id for one in listed]},
    )
    return {row.source_asset_id: row.slug for row in rows}


def _assets_by_known_pair(connection: Connection, source: str, listed: Iterable[ListingFields]) -> dict[str, Met]:
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
                evidence = {"pair": {"source": other_source, "source_asset_id": other_id}}
                found[id_] = Met(slug, Verdict("known_pair", BY, evidence=evidence))
    return found


def _add_listings(connection: Connection, source: str, listed: Sequence[ListingFields], met: Sequence[Met]) -> None:
    added = connection.execute(
        text("""
            INSERT INTO listings (source, source_asset_id, quote_currency, symbol, name, asset, method, confidence)
            SELECT :source, it.id, it.currency, it.symbol, it.name, assets.id, it.method, it.confidence
              FROM unnest(CAST(:ids AS text[]), CAST(:currencies AS text[]), CAST(:symbols AS text[]),
                          CAST(:names AS text[]), CAST(:slugs AS text[]), CAST(:methods AS text[]),
                          CAST(:confidences AS numeric[]))
                AS it(id, currency, symbol, name, slug, method, confidence)
              JOIN assets USING (slug)
            RETURNING id, asset, source_asset_id, quote_currency
        """),
        {
            "source": source,
            "ids": [one.source_asset_id for one in listed],
            "currencies": [one.quote_currency for one in listed],
            "symbols": [one.symbol for one in listed],
            "names": [one.name for one in listed],
            "slugs": [it.slug for it in met],
            "methods": [it.decided.method for it in met],
            "confidences": [it.decided.confidence for it in met],
        },
    )
    of_key = {key_of(one): it.decided for one, it in zip(listed, met, strict=True)}
    rows = added.all()
    those = [(row.id, row.asset) for row in rows]
    record(connection, those, [of_key[row.source_asset_id, row.quote_currency] for row in rows])


def _rename_listing(connection: Connection, listing: int, one: ListingFields) -> None:
    connection.execute(
        text("UPDATE listings SET symbol = :symbol, name = :name WHERE id = :listing"),
        {"symbol": one.symbol, "name": one.name, "listing": listing},
    )
