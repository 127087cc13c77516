"""A second look at which assets are one: with all that is listed by now, and with what is paid for each.

Of a symbol that every source lists once, and nobody else has, less must be alike than where a listing is first met.
Prices that are far apart say that it is not so. What remains in doubt is a candidate, for people to decide.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Engine, text

from tasks.against import decided_against
from tasks.decisions import BY_PEOPLE, Decided, Overrides, deciding, listings_of, move
from tasks.likeness import Likeness, Spelling, faint_likeness, likeness
from tasks.overridden import follow_overrides

log = structlog.get_logger()

BY = "second_look"

AGREES, DISAGREES = 0.02, 0.1
"""Two prices that differ by less may be of one thing; by more, they are not."""


@dataclass
class _Asset:
    """by_people: whether a person decided of one of its listings."""

    id: int
    slug: str
    made_at: datetime
    sources: set[str] = field(default_factory=set)
    spellings: list[Spelling] = field(default_factory=list)
    by_people: bool = False

    @property
    def keys(self) -> set[str]:
        return {it.key for it in self.spellings} - {""}

    def symbols_of(self, key: str) -> set[str]:
        return {it.symbol.casefold() for it in self.spellings if it.key == key}

    @property
    def words(self) -> set[str]:
        return {word for it in self.spellings for word in it.name_words}


class _Pair(NamedTuple):
    """Two assets, the older first, that no source lists both of. alone: no third has a symbol that they share."""

    one: _Asset
    other: _Asset
    alone: bool

    @property
    def may_be_merged(self) -> bool:
        """By a rule: what people decided, only people decide anew."""
        return self.alone and not (self.one.by_people or self.other.by_people)


def look_again(engine: Engine, overrides: Overrides) -> None:
    """Follow the overrides, merge what is one after all, and list what is in doubt."""
    with deciding(engine) as connection:
        follow_overrides(connection, overrides)
        assets = _assets(connection)
        common = Counter(word for asset in assets for word in asset.words)
        pairs = _pairs(assets)
        against, made_at = decided_against(connection), {asset.id: asset.made_at for asset in assets}
        pairs = [pair for pair in pairs if not against.are_two(pair.one.id, pair.other.id, made_at)]
        apart = _prices_apart(connection, pairs)
        merged: set[int] = set()
        candidates: list[tuple[_Pair, dict[str, Any]]] = []
        for pair in pairs:
            if not merged.isdisjoint((pair.one.id, pair.other.id)):
                continue  # to be looked at as what it has become, the next time
            alike = _alike(pair, common)
            differ = apart.get((pair.one.id, pair.other.id))
            evidence = _evidence(pair, alike, differ)
            if alike and pair.may_be_merged and (differ is None or differ < DISAGREES):
                decided = Decided(alike.method, BY, alike.confidence, evidence)
                move(connection, listings_of(connection, pair.other.id), pair.one.id, decided)
                merged |= {pair.one.id, pair.other.id}
                log.info("assets_merged", one=pair.other.slug, into=pair.one.slug, method=alike.method)
            elif alike or (pair.alone and differ is not None and differ < AGREES):
                candidates.append((pair, evidence))
        _keep(connection, [it for it in candidates if merged.isdisjoint((it[0].one.id, it[0].other.id))])


def _assets(connection: Connection) -> list[_Asset]:
    """All that have a listing, the oldest first."""
    rows = connection.execute(
        text("""
            SELECT assets.id, slug, assets.created_at, source, source_asset_id, listings.symbol, listings.name,
                   bool_or(method = ANY(:by_people)) AS by_people
              FROM listings JOIN assets ON assets.id = listings.asset
             GROUP BY assets.id, source, source_asset_id, listings.symbol, listings.name
             ORDER BY assets.id, source, source_asset_id, listings.symbol, listings.name
        """),
        {"by_people": list(BY_PEOPLE)},
    )
    found: dict[int, _Asset] = {}
    for row in rows:
        asset = found.setdefault(row.id, _Asset(row.id, row.slug, row.created_at))
        asset.sources.add(row.source)
        asset.spellings.append(Spelling(row.symbol, row.name, row.source_asset_id))
        asset.by_people |= row.by_people
    return list(found.values())


def _pairs(assets: Iterable[_Asset]) -> list[_Pair]:
    """Those of one symbol, in an order that is the same in every process."""
    by_key: dict[str, list[_Asset]] = defaultdict(list)
    for asset in assets:
        for key in asset.keys:
            by_key[key].append(asset)
    found: dict[tuple[int, int], _Pair] = {}
    for key in sorted(by_key):
        for one, other in combinations(by_key[key], 2):
            if one.sources & other.sources:
                continue
            # $ACM is another symbol than ACM, where two have ACM.
            exactly = one.symbols_of(key) & other.symbols_of(key)
            rivals = [it for it in by_key[key] if not exactly or it.symbols_of(key) & exactly]
            before = found.get((one.id, other.id))
            alone = len(rivals) == 2 and (before is None or before.alone)
            found[one.id, other.id] = _Pair(one, other, alone)
    return list(found.values())


def _alike(pair: _Pair, common: Mapping[str, int]) -> Likeness | None:
    """The most that any two of their listings have in common."""
    found = [
        alike
        for mine in pair.one.spellings
        for theirs in pair.other.spellings
        if mine.key == theirs.key and (alike := likeness(mine, theirs) or faint_likeness(mine, theirs, common))
    ]
    return max(found, key=lambda alike: alike.confidence, default=None)


def _prices_apart(connection: Connection, pairs: Sequence[_Pair]) -> dict[tuple[int, int], float]:
    """By how much the newest prices of two assets differ, in one currency and within an hour: 0.1 is a tenth."""
    rows = connection.execute(
        text("""
            WITH newest AS MATERIALIZED (
                SELECT asset, quote_currency, quotes.observed_at, price
                  FROM listings JOIN latest_quotes ON latest_quotes.listing_id = listings.id
                  JOIN quotes ON quotes.listing_id = latest_quotes.listing_id
                             AND quotes.observed_at = latest_quotes.observed_at
                 WHERE asset = ANY(:ones) OR asset = ANY(:others))
            SELECT it.one, it.other,
                   min(greatest(mine.price, theirs.price) / least(mine.price, theirs.price) - 1) AS apart
              FROM unnest(CAST(:ones AS bigint[]), CAST(:others AS bigint[])) AS it(one, other)
              JOIN newest AS mine ON mine.asset = it.one
              JOIN newest AS theirs ON theirs.asset = it.other AND theirs.quote_currency = mine.quote_currency
             WHERE mine.observed_at BETWEEN theirs.observed_at - interval '1 hour'
                                        AND theirs.observed_at + interval '1 hour'
             GROUP BY it.one, it.other
        """),
        {"ones": [pair.one.id for pair in pairs], "others": [pair.other.id for pair in pairs]},
    )
    return {(row.one, row.other): float(row.apart) for row in rows}


def _evidence(pair: _Pair, alike: Likeness | None, differ: float | None) -> dict[str, Any]:
    names = [[it.told for it in asset.spellings] for asset in (pair.one, pair.other)]
    return {"listings": names, "alike": alike and alike.method, "prices_apart": differ, "symbol_is_theirs": pair.alone}


def _keep(connection: Connection, candidates: Sequence[tuple[_Pair, Mapping[str, Any]]]) -> None:
    values = {
        "ones": [pair.one.id for pair, _ in candidates],
        "others": [pair.other.id for pair, _ in candidates],
        "evidences": [json.dumps(evidence) for _, evidence in candidates],
    }
    found = "unnest(CAST(:ones AS bigint[]), CAST(:others AS bigint[]), CAST(:evidences AS text[]))"
    connection.execute(
        text(f"""
            DELETE FROM candidates
             WHERE (one, other) NOT IN (SELECT it.one, it.other FROM {found} AS it(one, other, evidence))
        """),
        values,
    )
    connection.execute(
        text(f"""
            INSERT INTO candidates (one, other, evidence)
            SELECT one, other, CAST(evidence AS jsonb) FROM {found} AS it(one, other, evidence)
            ON CONFLICT (one, other) DO UPDATE SET evidence = excluded.evidence
             WHERE candidates.evidence IS DISTINCT FROM excluded.evidence
        """),
        values,
    )
