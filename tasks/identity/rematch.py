"""Compare all assets again, with their current listings and prices. Merge equal assets, and list doubtful pairs.

If two sources each list a symbol once and no third asset has it, weaker evidence is enough than for a new listing. Very
different prices prevent a merge. Doubtful pairs become candidates for people to decide.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, text

from tasks.identity.apply_overrides import override_steps
from tasks.identity.bulk_moves import Move, move_each
from tasks.identity.candidate_pairs import (
    MAX_COMPARED_SPELLINGS,
    Asset,
    Pair,
    best_similarity,
    find_pairs,
    find_respelled_pairs,
)
from tasks.identity.decisions import PEOPLE_METHODS, Overrides, Verdict, decision_lock
from tasks.identity.kept_apart import ApartDecisions, apart_decisions
from tasks.identity.later_decisions import LaterDecisions
from tasks.identity.similarity import Similarity, Spelling

log = structlog.get_logger()

BY_REMATCH = "second_look"
"""The author of the rematch's decisions, as stored in `decisions.decided_by`."""

AGREEING_PRICES = 0.02
"""Below this relative difference, the prices of two assets suggest that both are the same."""

CONFLICTING_PRICES = 0.1
"""From this relative difference on, the prices of two assets prevent a merge."""

MERGES_PER_TRANSACTION = 50
"""The maximum number of merges in a transaction. Between transactions, sources can add listings."""

CANDIDATES_PER_TRANSACTION = 200

ASSETS_PER_QUERY, PAIRS_PER_QUERY = 2_000, 500
"""The maximum number of assets to read, and of pairs to compare, in one step."""


@dataclass
class _Comparison:
    """The result of a comparison. later: the decisions since the comparison began."""

    later: LaterDecisions
    apart: ApartDecisions
    merges: list[tuple[Pair, Verdict]] = field(default_factory=list)
    candidates: list[tuple[Pair, dict[str, Any]]] = field(default_factory=list)
    merging: set[int] = field(default_factory=set)


def rematch_assets(engine: Engine, overrides: Overrides | None) -> None:
    """Apply the overrides, merge equal assets, and store doubtful pairs as candidates."""
    for _ in rematch_steps(engine, overrides):
        pass


def rematch_steps(engine: Engine, overrides: Overrides | None) -> Iterator[None]:
    """Do the work of `rematch_assets` in short steps. Between steps, no transaction or connection is open.

    The comparison takes no lock. A pair that gets a decision during the comparison is left to the next rematch.
    """
    yield from override_steps(engine, overrides)
    yield
    with engine.connect() as connection:
        comparison = _Comparison(LaterDecisions(connection), apart_decisions(connection))
    assets: list[Asset] = []
    word_counts: Counter[str] = Counter()
    for chunk in _read_assets(engine):
        assets += chunk
        word_counts.update(word for asset in chunk for word in asset.words)
        yield
    created_at = {asset.id: asset.created_at for asset in assets}
    undecided: list[Pair] = []
    for pairs in chain([find_respelled_pairs(assets)], find_pairs(assets)):
        undecided += [
            pair for pair in pairs if not comparison.apart.keep_apart(pair.older.id, pair.newer.id, created_at)
        ]
        while len(undecided) >= PAIRS_PER_QUERY:
            _compare(engine, comparison, undecided[:PAIRS_PER_QUERY], word_counts)
            del undecided[:PAIRS_PER_QUERY]
            yield
        yield
    _compare(engine, comparison, undecided, word_counts)
    yield
    merged: set[int] = set()
    for start in range(0, len(comparison.merges), MERGES_PER_TRANSACTION):
        merged |= _merge(engine, comparison.merges[start : start + MERGES_PER_TRANSACTION], comparison.later)
        yield
    yield from _save_candidates(
        engine, [(pair, evidence) for pair, evidence in comparison.candidates if merged.isdisjoint(pair.ids)]
    )


def _compare(engine: Engine, comparison: _Comparison, pairs: Sequence[Pair], word_counts: Mapping[str, int]) -> None:
    """Compare the names and the prices of pairs. Add the pairs to merge, and the candidates, to the comparison."""
    with engine.connect() as connection:
        price_gaps = _price_gaps(connection, pairs)
    for pair in pairs:
        if not comparison.merging.isdisjoint(pair.ids):
            continue  # The next rematch compares the merged asset.
        similarity = best_similarity(pair, word_counts)
        price_gap = price_gaps.get((pair.older.id, pair.newer.id))
        evidence = _evidence(pair, similarity, price_gap)
        if similarity and pair.is_open_to_rules and (price_gap is None or price_gap < CONFLICTING_PRICES):
            verdict = Verdict(similarity.method, BY_REMATCH, similarity.confidence, evidence)
            comparison.merges.append((pair, verdict))
            comparison.merging |= pair.ids
        elif (
            similarity
            or pair.is_respelled
            or (pair.is_unambiguous and price_gap is not None and price_gap < AGREEING_PRICES)
        ):
            comparison.candidates.append((pair, evidence))


def _merge(engine: Engine, merges: Sequence[tuple[Pair, Verdict]], later: LaterDecisions) -> set[int]:
    """Merge the pairs that got no decision since the comparison. Return the ids of the assets in the merged pairs."""
    with decision_lock(engine) as connection:
        later.read(connection)
        merged = [(pair, verdict, uuid.uuid4()) for pair, verdict in merges if not _concern(later, pair)]
        moves = [
            Move(listing, pair.older.id, verdict, change)
            for pair, verdict, change in merged
            for listing in sorted(pair.newer.listing_ids)
        ]
        move_each(connection, moves)
        later.skip_own(connection)
    for pair, verdict, change in merged:
        log.info(
            "assets_merged", asset=pair.newer.slug, into=pair.older.slug, method=verdict.method, change=str(change)
        )
    return {id_ for pair, _, _ in merged for id_ in pair.ids}


def _concern(later: LaterDecisions, pair: Pair) -> bool:
    return bool(pair.listing_ids & later.listing_ids or pair.ids & later.assets or pair.keys & later.keys)


def _read_assets(engine: Engine) -> Iterator[list[Asset]]:
    """Yield all assets that have a listing in batches, the oldest first."""
    with engine.connect() as connection:
        newest: int = connection.scalar(text("SELECT coalesce(max(id), 0) FROM assets")) or 0
    for after in range(0, newest, ASSETS_PER_QUERY):
        with engine.connect() as connection:
            assets = _assets_between(connection, after, after + ASSETS_PER_QUERY)
        yield assets


def _assets_between(connection: Connection, after: int, until: int) -> list[Asset]:
    """Return the assets with a listing and an id in this range, the oldest first."""
    rows = connection.execute(
        text("""
            SELECT assets.id, slug, assets.created_at, source, source_asset_id, listings.symbol, listings.name,
                   array_agg(listings.id) AS listing_ids, bool_or(method = ANY(:people_methods)) AS decided_by_people
              FROM listings JOIN assets ON assets.id = listings.asset
             WHERE listings.asset > :after AND listings.asset <= :until
             GROUP BY assets.id, source, source_asset_id, listings.symbol, listings.name
             ORDER BY assets.id, source, source_asset_id, listings.symbol, listings.name
        """),
        {"people_methods": list(PEOPLE_METHODS), "after": after, "until": until},
    )
    assets: dict[int, Asset] = {}
    for row in rows:
        asset = assets.setdefault(row.id, Asset(row.id, row.slug, row.created_at))
        asset.listing_ids.update(row.listing_ids)
        asset.sources.add(row.source)
        asset.ids.add((row.source, row.source_asset_id))
        asset.spellings.append(Spelling(row.symbol, row.name, row.source_asset_id))
        asset.decided_by_people |= row.decided_by_people
    return list(assets.values())


def _price_gaps(connection: Connection, pairs: Sequence[Pair]) -> dict[tuple[int, int], float]:
    """Return, by the ids of a pair, the relative difference of its newest prices: 0.1 means 10 %.

    Only prices in the same quote currency and within one hour are compared. Pairs without such prices are omitted.
    """
    rows = connection.execute(
        text("""
            WITH newest AS MATERIALIZED (
                SELECT asset, quote_currency, quotes.observed_at, price
                  FROM listings JOIN latest_quotes ON latest_quotes.listing_id = listings.id
                  JOIN quotes ON quotes.listing_id = latest_quotes.listing_id
                             AND quotes.observed_at = latest_quotes.observed_at
                 WHERE asset = ANY(:older) OR asset = ANY(:newer))
            SELECT pair.older, pair.newer,
                   min(greatest(a.price, b.price) / least(a.price, b.price) - 1) AS gap
              FROM unnest(CAST(:older AS bigint[]), CAST(:newer AS bigint[])) AS pair(older, newer)
              JOIN newest AS a ON a.asset = pair.older
              JOIN newest AS b ON b.asset = pair.newer AND b.quote_currency = a.quote_currency
             WHERE a.observed_at BETWEEN b.observed_at - interval '1 hour' AND b.observed_at + interval '1 hour'
             GROUP BY pair.older, pair.newer
        """),
        {"older": [pair.older.id for pair in pairs], "newer": [pair.newer.id for pair in pairs]},
    )
    return {(row.older, row.newer): float(row.gap) for row in rows}


def _evidence(pair: Pair, similarity: Similarity | None, price_gap: float | None) -> dict[str, Any]:
    return {
        "listings": [
            [spelling.evidence for spelling in asset.spellings[:MAX_COMPARED_SPELLINGS]]
            for asset in (pair.older, pair.newer)
        ],
        "alike": similarity and similarity.method,
        "prices_apart": price_gap,
        "symbol_is_theirs": pair.is_unambiguous,
        "same_id_when_cleaned": pair.is_respelled,
    }


def _save_candidates(engine: Engine, candidates: Sequence[tuple[Pair, Mapping[str, Any]]]) -> Iterator[None]:
    """Replace the stored candidates with these candidates, in batches."""
    current = {(pair.older.id, pair.newer.id) for pair, _ in candidates}
    with engine.connect() as connection:
        stored = connection.execute(text("SELECT one, other FROM candidates ORDER BY one, other")).all()
    outdated = [pair for pair in stored if tuple(pair) not in current]
    for start in range(0, len(outdated), CANDIDATES_PER_TRANSACTION):
        ones, others = zip(*outdated[start : start + CANDIDATES_PER_TRANSACTION], strict=True)
        with decision_lock(engine) as connection:
            connection.execute(_DELETE_CANDIDATES, {"older": list(ones), "newer": list(others)})
        yield
    for start in range(0, len(candidates), CANDIDATES_PER_TRANSACTION):
        batch = candidates[start : start + CANDIDATES_PER_TRANSACTION]
        values = {
            "older": [pair.older.id for pair, _ in batch],
            "newer": [pair.newer.id for pair, _ in batch],
            "evidences": [json.dumps(evidence) for _, evidence in batch],
        }
        with decision_lock(engine) as connection:
            connection.execute(_SAVE_CANDIDATES, values)
        yield


_DELETE_CANDIDATES = text("""
    DELETE FROM candidates
     WHERE (one, other) IN (SELECT * FROM unnest(CAST(:older AS bigint[]), CAST(:newer AS bigint[])))
""")

_SAVE_CANDIDATES = text("""
    INSERT INTO candidates (one, other, evidence)
    SELECT one, other, CAST(evidence AS jsonb)
      FROM unnest(CAST(:older AS bigint[]), CAST(:newer AS bigint[]), CAST(:evidences AS text[]))
        AS new(one, other, evidence)
     WHERE NOT EXISTS (SELECT FROM assets WHERE id IN (one, other) AND merged_into IS NOT NULL)
    ON CONFLICT (one, other) DO UPDATE SET evidence = excluded.evidence
     WHERE candidates.evidence IS DISTINCT FROM excluded.evidence
""")
