"""What people have decided against: that two assets are one, whatever speaks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from tasks.identity.decisions import BY_PEOPLE, OVERRIDE, OVERRIDES

SETTLES = (OVERRIDE, "pinned")
"""Methods that settle where a listing belongs, also where they leave it."""


@dataclass
class ApartDecisions:
    """apart: two assets by their ids, the lesser first, of which one had a listing taken from the other.

    settled: by its id when a listing of an asset was last told to stay. That speaks against what was there by then, and
    not against what comes later: else one word about Bitcoin would hide all later duplicates of it.
    """

    apart: set[tuple[int, int]] = field(default_factory=set)
    settled: dict[int, datetime] = field(default_factory=dict)

    def are_two(self, one: int, other: int, made_at: Mapping[int, datetime]) -> bool:
        if (min(one, other), max(one, other)) in self.apart:
            return True
        return any(self.settled[it] > made_at[than] for it, than in ((one, other), (other, one)) if it in self.settled)


def apart_decisions(connection: Connection) -> ApartDecisions:
    """As far as it stands: a listing that was taken elsewhere since says nothing of where it was."""
    into = {row.id: row.merged_into for row in connection.execute(_MERGED)}

    def now(asset: int) -> int:
        while asset in into:
            asset = into[asset]
        return asset

    found = ApartDecisions()
    given = {"by_people": list(BY_PEOPLE), "override": OVERRIDE, "overrides": OVERRIDES, "settles": list(SETTLES)}
    for row in connection.execute(_BY_PEOPLE, given):
        if now(row.asset) != row.now:
            continue
        if row.before is None or row.before == row.asset:
            if row.settles:
                found.settled[row.now] = row.decided_at
        elif (before := now(row.before)) != row.now:
            found.apart.add((min(before, row.now), max(before, row.now)))
    return found


_MERGED = text("SELECT id, merged_into FROM assets WHERE merged_into IS NOT NULL")

_BY_PEOPLE = text("""
    SELECT listings.asset AS now, d.asset, before.asset AS before, d.decided_at,
           d.method = ANY(:settles) AND d.method = listings.method AS settles
      FROM decisions AS d JOIN listings ON listings.id = d.listing
      LEFT JOIN LATERAL (SELECT b.asset FROM decisions AS b WHERE b.listing = d.listing AND b.id < d.id
                          ORDER BY b.id DESC LIMIT 1) AS before ON true
     WHERE d.method = :override
        OR (d.decided_by <> :overrides AND (d.method = ANY(:by_people) OR d.evidence ->> 'undoes' IS NOT NULL))
     ORDER BY d.id
""")
"""Each decision of a person, or of the file; what its listing was of before, and what it is of now."""
