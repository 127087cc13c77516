"""Compare all assets again, with their current listings and prices. Merge equal assets, and list doubtful pairs.

If two sources each list a symbol once and no third asset has it, weaker evidence is enough than for a new listing. Very
different prices prevent a merge. Doubtful pairs become candidates for people to decide.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Engine, text

from tasks.identity.apply_overrides import apply_overrides
from tasks.identity.candidate_pairs import Asset, Pair, best_similarity, find_pairs
from tasks.identity.decisions import PEOPLE_METHODS, Overrides, Verdict, decision_lock, move
from tasks.identity.kept_apart import apart_decisions
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


class _Comparison(NamedTuple):
    """The result of a comparison. later: the decisions since the comparison began."""

    later: LaterDecisions
    merges: list[tuple[Pair, Verdict]]
    candidates: list[tuple[Pair, dict[str, Any]]]


def rematch_assets(engine: Engine, overrides: Overrides | None) -> None:
    """Apply the overrides, merge equal assets, and store doubtful pairs as candidates.

    The comparison takes no lock. If a pair gets a decision meanwhile, it is left to the next rematch.
    """
    apply_overrides(engine, overrides)
    # With autocommit no transaction stays open during the comparison.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        comparison = _compare_assets(connection)
    merged: set[int] = set()
    for start in range(0, len(comparison.merges), MERGES_PER_TRANSACTION):
        batch = comparison.merges[start : start + MERGES_PER_TRANSACTION]
        for pair, verdict, change in _merge(engine, batch, comparison.later):
            log.info(
                "assets_merged",
                asset=pair.newer.slug,
                into=pair.older.slug,
                method=verdict.method,
                change=str(change),
            )
            merged |= pair.ids
    with decision_lock(engine) as connection:
        candidates = [(pair, evidence) for pair, evidence in comparison.candidates if merged.isdisjoint(pair.ids)]
        _save_candidates(connection, candidates)


def _compare_assets(connection: Connection) -> _Comparison:
    comparison = _Comparison(LaterDecisions(connection), [], [])
    assets = _assets(connection)
    word_counts = Counter(word for asset in assets for word in asset.words)
    pairs = _undecided_pairs(connection, assets)
    price_gaps = _price_gaps(connection, pairs)
    merging: set[int] = set()
    for pair in pairs:
        if not merging.isdisjoint(pair.ids):
            continue  # The next rematch compares the merged asset.
        similarity = best_similarity(pair, word_counts)
        price_gap = price_gaps.get((pair.older.id, pair.newer.id))
        evidence = _evidence(pair, similarity, price_gap)
        if similarity and pair.is_open_to_rules and (price_gap is None or price_gap < CONFLICTING_PRICES):
            verdict = Verdict(similarity.method, BY_REMATCH, similarity.confidence, evidence)
            comparison.merges.append((pair, verdict))
            merging |= pair.ids
        elif similarity or (pair.is_unambiguous and price_gap is not None and price_gap < AGREEING_PRICES):
            comparison.candidates.append((pair, evidence))
    return comparison


def _undecided_pairs(connection: Connection, assets: Sequence[Asset]) -> list[Pair]:
    """Return the pairs of assets with a common symbol, without pairs that people decided to keep apart."""
    decisions = apart_decisions(connection)
    created_at = {asset.id: asset.created_at for asset in assets}
    return [pair for pair in find_pairs(assets) if not decisions.keep_apart(pair.older.id, pair.newer.id, created_at)]


def _merge(
    engine: Engine, merges: Sequence[tuple[Pair, Verdict]], later: LaterDecisions
) -> list[tuple[Pair, Verdict, uuid.UUID]]:
    """Merge the pairs that got no decision since the comparison. Return each pair with the id of its change."""
    with decision_lock(engine) as connection:
        later.read(connection)
        return [
            (pair, verdict, move(connection, sorted(pair.newer.listing_ids), pair.older.id, verdict))
            for pair, verdict in merges
            if not _concern(later, pair)
        ]


def _concern(later: LaterDecisions, pair: Pair) -> bool:
    return bool(later.listing_ids & pair.listing_ids or later.assets & pair.ids or later.keys & pair.keys)


def _assets(connection: Connection) -> list[Asset]:
    """Return all assets that have a listing, the oldest first."""
    rows = connection.execute(
        text("""
            SELECT assets.id, slug, assets.created_at, source, source_asset_id, listings.symbol, listings.name,
                   array_agg(listings.id) AS listing_ids, bool_or(method = ANY(:people_methods)) AS decided_by_people
              FROM listings JOIN assets ON assets.id = listings.asset
             GROUP BY assets.id, source, source_asset_id, listings.symbol, listings.name
             ORDER BY assets.id, source, source_asset_id, listings.symbol, listings.name
        """),
        {"people_methods": list(PEOPLE_METHODS)},
    )
    assets: dict[int, Asset] = {}
    for row in rows:
        asset = assets.setdefault(row.id, Asset(row.id, row.slug, row.created_at))
        asset.listing_ids.update(row.listing_ids)
        asset.sources.add(row.source)
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
        "listings": [[spelling.evidence for spelling in asset.spellings] for asset in (pair.older, pair.newer)],
        "alike": similarity and similarity.method,
        "prices_apart": price_gap,
        "symbol_is_theirs": pair.is_unambiguous,
    }


def _save_candidates(connection: Connection, candidates: Sequence[tuple[Pair, Mapping[str, Any]]]) -> None:
    """Replace the stored candidates with these."""
    values = {
        "older": [pair.older.id for pair, _ in candidates],
        "newer": [pair.newer.id for pair, _ in candidates],
        "evidences": [json.dumps(evidence) for _, evidence in candidates],
    }
    rows = "unnest(CAST(:older AS bigint[]), CAST(:newer AS bigint[]), CAST(:evidences AS text[]))"
    connection.execute(
        text(f"""
            DELETE FROM candidates
             WHERE (one, other) NOT IN (SELECT new.one, new.other FROM {rows} AS new(one, other, evidence))
        """),
        values,
    )
    connection.execute(
        text(f"""
            INSERT INTO candidates (one, other, evidence)
            SELECT one, other, CAST(evidence AS jsonb) FROM {rows} AS new(one, other, evidence)
             WHERE NOT EXISTS (SELECT FROM assets WHERE id IN (one, other) AND merged_into IS NOT NULL)
            ON CONFLICT (one, other) DO UPDATE SET evidence = excluded.evidence
             WHERE candidates.evidence IS DISTINCT FROM excluded.evidence
        """),
        values,
    )
