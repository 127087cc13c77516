"""Find the pairs of assets that people decided to keep apart, so that no rule merges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from tasks.identity.decisions import BY_OVERRIDES, OVERRIDE, PEOPLE_METHODS

PINNING_METHODS = (OVERRIDE, "pinned")
"""Methods that fix a listing to an asset, even if it belonged to that asset before."""


@dataclass
class ApartDecisions:
    """The decisions that keep assets apart.

    separated: pairs of asset ids, the smaller first. A person moved a listing from one asset to the other.
    pinned_at: by asset id, when one of its listings was last pinned to it. A pin keeps the asset apart only from assets
               that existed at that time. Otherwise one pin of Bitcoin would hide every later duplicate of Bitcoin.
    """

    separated: set[tuple[int, int]] = field(default_factory=set)
    pinned_at: dict[int, datetime] = field(default_factory=dict)

    def keep_apart(self, left: int, right: int, created_at: Mapping[int, datetime]) -> bool:
        """Return whether people decided that two assets are different. created_at: by asset id."""
        if (min(left, right), max(left, right)) in self.separated:
            return True
        return any(
            self.pinned_at[asset] > created_at[other_asset]
            for asset, other_asset in ((left, right), (right, left))
            if asset in self.pinned_at
        )


def apart_decisions(connection: Connection) -> ApartDecisions:
    """Read the decisions that keep assets apart. Ignore a decision if its listing was moved again later."""
    merged_into = {row.id: row.merged_into for row in connection.execute(_MERGED)}

    def current(asset: int) -> int:
        while asset in merged_into:
            asset = merged_into[asset]
        return asset

    decisions = ApartDecisions()
    parameters = {
        "people_methods": list(PEOPLE_METHODS),
        "override": OVERRIDE,
        "by_overrides": BY_OVERRIDES,
        "pinning_methods": list(PINNING_METHODS),
    }
    for row in connection.execute(_DECISIONS_OF_PEOPLE, parameters):
        if current(row.asset) != row.current_asset:
            continue
        if row.asset_before is None or row.asset_before == row.asset:
            if row.pins:
                decisions.pinned_at[row.current_asset] = row.decided_at
        elif (before := current(row.asset_before)) != row.current_asset:
            decisions.separated.add((min(before, row.current_asset), max(before, row.current_asset)))
    return decisions


_MERGED = text("SELECT id, merged_into FROM assets WHERE merged_into IS NOT NULL")

_DECISIONS_OF_PEOPLE = text("""
    SELECT listings.asset AS current_asset, d.asset, before.asset AS asset_before, d.decided_at,
           d.method = ANY(:pinning_methods) AND d.method = listings.method AS pins
      FROM decisions AS d JOIN listings ON listings.id = d.listing
      LEFT JOIN LATERAL (SELECT b.asset FROM decisions AS b WHERE b.listing = d.listing AND b.id < d.id
                          ORDER BY b.id DESC LIMIT 1) AS before ON true
     WHERE d.method = :override
        OR (d.decided_by <> :by_overrides
            AND (d.method = ANY(:people_methods) OR d.evidence ->> 'undoes' IS NOT NULL))
     ORDER BY d.id
""")
"""The decisions of people and the overrides file, each with the listing's asset before it and its current asset."""
