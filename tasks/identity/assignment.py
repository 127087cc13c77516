"""Assign new listings to assets: by the overrides file, the same id, a known pair of ids, or similar names and ids.

The rules apply in this order. A symbol alone is never enough: thousands of coins share one. If no rule applies, the
listing gets a new asset. The rematch (tasks/identity/rematch.py) may merge this asset later.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, text

from sources.record_columns import ListingFields, ListingKey
from store.tables import SYMBOL_KEY
from tasks.identity.decisions import (
    BY_OVERRIDES,
    OVERRIDE,
    SAME_ID,
    Overrides,
    Verdict,
    assets_by_slug,
)
from tasks.identity.matching import match_listings
from tasks.identity.similarity import Spelling
from tasks.identity.slugs import Slugs

KNOWN_PAIRS = Path(__file__).with_name("known_pairs.csv")

BY_RESOLVER = "resolver"
"""The author of decisions that rules make about new listings."""


class Assignment(NamedTuple):
    """The slug of the asset that a listing is assigned to, and the verdict behind it."""

    slug: str
    verdict: Verdict


SAME_ID_VERDICT = Verdict(SAME_ID, BY_RESOLVER)
NEW_ASSET_VERDICT = Verdict("new", BY_RESOLVER)


@dataclass
class Plan:
    """The assignments of new listings, and the assets to create or separate before them.

    new_assets:       by slug, the listing that a new asset is named after.
    overridden_slugs: the slugs of assets in the overrides file. These assets are separated from assets that they were
                      merged into.
    """

    assignments: dict[ListingKey, Assignment] = field(default_factory=dict)
    new_assets: dict[str, ListingFields] = field(default_factory=dict)
    overridden_slugs: set[str] = field(default_factory=set)

    def pop_new_assets(self, slugs: Set[str]) -> list[tuple[str, ListingFields]]:
        """Return the new assets with these slugs that were not returned before, in the order of their listings."""
        new = [(slug, listing) for slug, listing in self.new_assets.items() if slug in slugs]
        for slug, _ in new:
            del self.new_assets[slug]
        return new


def plan_assignments(
    connection: Connection,
    source: str,
    listings: Mapping[ListingKey, ListingFields],
    overrides: Overrides,
    rivals: Sequence[ListingFields] = (),
) -> Plan:
    """Plan the assignment of each new listing. If no rule applies, the listing gets a new asset. Write nothing.

    rivals: listings of the same page that already got new assets. They still compete for assets of other sources.
    """
    plan = Plan()
    by_id = _assign_without_comparing(connection, source, list(listings.values()), overrides, plan)
    others = [listing for listing in listings.values() if listing.source_asset_id not in by_id]
    similar = _assign_by_similarity(
        connection, source, [*others, *rivals], {assignment.slug for assignment in by_id.values()}
    )
    slugs = Slugs(connection, others, plan.new_assets)
    for key, listing in listings.items():
        id_ = listing.source_asset_id
        assignment = by_id.get(id_) or similar.get(id_)
        if assignment is None:
            assignment = Assignment(slugs.reserve(listing), NEW_ASSET_VERDICT)
            plan.new_assets[assignment.slug] = listing
        # The same id in another quote currency gets the same asset.
        is_override = assignment.verdict.method == OVERRIDE
        by_id[id_] = assignment if is_override else Assignment(assignment.slug, SAME_ID_VERDICT)
        plan.assignments[key] = assignment
    return plan


def _assign_without_comparing(
    connection: Connection, source: str, listings: Sequence[ListingFields], overrides: Overrides, plan: Plan
) -> dict[str, Assignment]:
    """Return assignments, by source_asset_id, that need no comparison of names: by override, id or known pair."""
    by_pair = _assign_by_known_pair(connection, source, listings)
    by_id = {
        id_: Assignment(slug, SAME_ID_VERDICT) for id_, slug in _assets_by_id(connection, source, listings).items()
    }
    return {**by_pair, **by_id, **_assign_by_override(connection, source, listings, overrides, plan)}


def _assign_by_override(
    connection: Connection, source: str, listings: Sequence[ListingFields], overrides: Overrides, plan: Plan
) -> dict[str, Assignment]:
    """Return the assignments of the overrides file, by source_asset_id. Add its missing assets to the plan."""
    named = {listing.source_asset_id: listing for listing in listings if (source, listing.source_asset_id) in overrides}
    by_id = {id_: overrides[source, id_] for id_ in named}
    plan.overridden_slugs |= {override.asset for override in by_id.values()}
    existing = assets_by_slug(connection, plan.overridden_slugs)
    plan.new_assets |= {override.asset: named[id_] for id_, override in by_id.items() if override.asset not in existing}
    return {
        id_: Assignment(override.asset, Verdict(OVERRIDE, BY_OVERRIDES, reason=override.reason))
        for id_, override in by_id.items()
    }


def _assign_by_similarity(
    connection: Connection, source: str, listings: Iterable[ListingFields], assigned_slugs: Collection[str]
) -> dict[str, Assignment]:
    """Return assignments, by source_asset_id, to similar assets that the source does not list.

    assigned_slugs: slugs of assets that other listings of the page already have.
    """
    spellings = {listing.source_asset_id: spelling_of(listing) for listing in reversed(list(listings))}
    rows = connection.execute(
        text(f"""
            WITH candidates AS (SELECT * FROM listings WHERE {SYMBOL_KEY} = ANY(:keys))
            SELECT candidates.symbol, candidates.name, source_asset_id, slug
              FROM candidates JOIN assets ON assets.id = candidates.asset
             WHERE NOT EXISTS (SELECT FROM listings AS own
                                WHERE own.asset = candidates.asset AND own.source = :source)
        """),
        {"keys": list({spelling.key for spelling in spellings.values()}), "source": source},
    )
    assets: dict[str, list[Spelling]] = {}
    for row in rows:
        if row.slug not in assigned_slugs:
            assets.setdefault(row.slug, []).append(Spelling(row.symbol, row.name, row.source_asset_id))
    matches = match_listings(spellings, assets)
    return {
        id_: Assignment(
            slug, Verdict(similarity.method, BY_RESOLVER, similarity.confidence, {"like": spelling.evidence})
        )
        for id_, (slug, similarity, spelling) in matches.items()
    }


def spelling_of(listing: ListingFields) -> Spelling:
    return Spelling(listing.symbol, listing.name, listing.source_asset_id)


def _assets_by_id(connection: Connection, source: str, listings: Iterable[ListingFields]) -> dict[str, str]:
    """Return, by source_asset_id, the slugs of assets that the source already lists in another quote currency."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT source_asset_id, slug FROM listings JOIN assets ON assets.id = listings.asset
             WHERE source = :source AND source_asset_id = ANY(:ids)
        """),
        {"source": source, "ids": [listing.source_asset_id for listing in listings]},
    )
    return {row.source_asset_id: row.slug for row in rows}


def _assign_by_known_pair(
    connection: Connection, source: str, listings: Iterable[ListingFields]
) -> dict[str, Assignment]:
    """Return assignments, by source_asset_id, to assets that another source lists under the paired id."""
    assignments = {}
    for id_ in {listing.source_asset_id for listing in listings}:
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
                assignments[id_] = Assignment(slug, Verdict("known_pair", BY_RESOLVER, evidence=evidence))
    return assignments


@cache
def known_pairs() -> Mapping[tuple[str, str], tuple[tuple[str, str], ...]]:
    """Return, by source and source_asset_id, the sources and ids of the same asset in other sources."""
    with KNOWN_PAIRS.open(newline="", encoding="utf-8") as file:
        rows = [[(source, id_) for source, id_ in row.items() if id_] for row in csv.DictReader(file)]
    return {name: tuple(other for other in row if other != name) for row in rows for name in row}
