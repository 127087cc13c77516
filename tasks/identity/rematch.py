"""A second look at which assets are one: with all that is listed by now, and with what is paid for each.

Of a symbol that every source lists once, and nobody else has, less must be alike than where a listing is first met.
Prices that are far apart say that it is not so. What remains in doubt is a candidate, for people to decide.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Engine, text

from tasks.identity.apply_overrides import follow_overrides
from tasks.identity.candidate_pairs import Asset, Pair, most_alike, pairs_of
from tasks.identity.decisions import BY_PEOPLE, Overrides, Verdict, decision_lock, move
from tasks.identity.kept_apart import apart_decisions
from tasks.identity.similarity import Similarity, Spelling

log = structlog.get_logger()

BY = "second_look"

AGREES, DISAGREES = 0.02, 0.1
"""Two prices that differ by less may be of one thing; by more, they are not."""

BITE = 50
"""So many merges are one transaction: no source can have a new listing decided meanwhile."""


class _Seen(NamedTuple):
    """What was looked at. decision: the newest one at the time."""

    decision: int
    mergers: list[tuple[Pair, Verdict]]
    candidates: list[tuple[Pair, dict[str, Any]]]


def rematch_assets(engine: Engine, overrides: Overrides | None) -> None:
    """Follow the overrides, merge what is one after all, and list what is in doubt.

    Nobody waits while it looks: what was decided meanwhile holds, and is looked at the next time.
    """
    follow_overrides(engine, overrides)
    # Each statement by itself: no transaction is open while it thinks.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        seen = _look(connection)
    merged: set[int] = set()
    for start in range(0, len(seen.mergers), BITE):
        for pair, decided, change in _merge(engine, seen.mergers[start : start + BITE], seen.decision):
            log.info(
                "assets_merged", one=pair.other.slug, into=pair.one.slug, method=decided.method, change=str(change)
            )
            merged |= pair.ids
    with decision_lock(engine) as connection:
        _keep(connection, [it for it in seen.candidates if merged.isdisjoint(it[0].ids)])


def _look(connection: Connection) -> _Seen:
    seen = _Seen(connection.scalar(text("SELECT coalesce(max(id), 0) FROM decisions")) or 0, [], [])
    assets = _assets(connection)
    common = Counter(word for asset in assets for word in asset.words)
    against, made_at = apart_decisions(connection), {asset.id: asset.made_at for asset in assets}
    pairs = [pair for pair in pairs_of(assets) if not against.are_two(pair.one.id, pair.other.id, made_at)]
    apart = _prices_apart(connection, pairs)
    merged: set[int] = set()
    for pair in pairs:
        if not merged.isdisjoint(pair.ids):
            continue  # to be looked at as what it has become, the next time
        alike = most_alike(pair, common)
        differ = apart.get((pair.one.id, pair.other.id))
        evidence = _evidence(pair, alike, differ)
        if alike and pair.may_be_merged and (differ is None or differ < DISAGREES):
            seen.mergers.append((pair, Verdict(alike.method, BY, alike.confidence, evidence)))
            merged |= pair.ids
        elif alike or (pair.alone and differ is not None and differ < AGREES):
            seen.candidates.append((pair, evidence))
    return seen


def _merge(
    engine: Engine, mergers: Sequence[tuple[Pair, Verdict]], newest: int
) -> list[tuple[Pair, Verdict, uuid.UUID]]:
    """Merge those of which nothing was decided since they were looked at; gives each with its change's id."""
    with decision_lock(engine) as connection:
        news = _news(connection, newest)
        return [
            (pair, decided, move(connection, sorted(pair.other.listings), pair.one.id, decided))
            for pair, decided in mergers
            if not news.is_of(pair)
        ]


@dataclass(frozen=True)
class _News:
    """What was decided of: listings, the assets that they are of, and the keys of their symbols."""

    listings: set[int]
    assets: set[int]
    keys: set[str]

    def is_of(self, pair: Pair) -> bool:
        return bool(self.listings & pair.listings or self.assets & pair.ids or self.keys & pair.keys)


def _news(connection: Connection, newest: int) -> _News:
    """What was decided after that decision."""
    rows = connection.execute(
        text("""
            SELECT listing, listings.asset, symbol FROM decisions JOIN listings ON listings.id = listing
             WHERE decisions.id > :newest
        """),
        {"newest": newest},
    ).all()
    keys = {Spelling(row.symbol, "", "").key for row in rows} - {""}
    return _News({row.listing for row in rows}, {row.asset for row in rows}, keys)


def _assets(connection: Connection) -> list[Asset]:
    """All that have a listing, the oldest first."""
    rows = connection.execute(
        text("""
            SELECT assets.id, slug, assets.created_at, source, source_asset_id, listings.symbol, listings.name,
                   array_agg(listings.id) AS listings, bool_or(method = ANY(:by_people)) AS by_people
              FROM listings JOIN assets ON assets.id = listings.asset
             GROUP BY assets.id, source, source_asset_id, listings.symbol, listings.name
             ORDER BY assets.id, source, source_asset_id, listings.symbol, listings.name
        """),
        {"by_people": list(BY_PEOPLE)},
    )
    found: dict[int, Asset] = {}
    for row in rows:
        asset = found.setdefault(row.id, Asset(row.id, row.slug, row.created_at))
        asset.listings.update(row.listings)
        asset.sources.add(row.source)
        asset.spellings.append(Spelling(row.symbol, row.name, row.source_asset_id))
        asset.by_people |= row.by_people
    return list(found.values())


def _prices_apart(connection: Connection, pairs: Sequence[Pair]) -> dict[tuple[int, int], float]:
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


def _evidence(pair: Pair, alike: Similarity | None, differ: float | None) -> dict[str, Any]:
    names = [[it.told for it in asset.spellings] for asset in (pair.one, pair.other)]
    return {"listings": names, "alike": alike and alike.method, "prices_apart": differ, "symbol_is_theirs": pair.alone}


def _keep(connection: Connection, candidates: Sequence[tuple[Pair, Mapping[str, Any]]]) -> None:
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
             WHERE NOT EXISTS (SELECT FROM assets WHERE id IN (one, other) AND merged_into IS NOT NULL)
            ON CONFLICT (one, other) DO UPDATE SET evidence = excluded.evidence
             WHERE candidates.evidence IS DISTINCT FROM excluded.evidence
        """),
        values,
    )
