"""Changes taken back: each listing is again what it was before."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, Row, text

from tasks.identity.decisions import (
    BY_PEOPLE,
    OVERRIDE,
    OVERRIDES,
    SAME_ID,
    DecisionRefused,
    Verdict,
    move_for_people,
    shown,
)


def revert_change(connection: Connection, change: uuid.UUID, by: str, reason: str | None) -> uuid.UUID:
    """Each listing of a change is again what it was before. Gives the undoing's id, which can be undone as well.

    What was met since, in another currency, goes with the listing that it followed. Raises Refused.
    """
    rows = connection.execute(_BEFORE, {"change": change}).all()
    if not rows:
        raise DecisionRefused("unknown_change", f"There is no change {change}.")
    if later := [row for row in rows if not row.stands]:
        raise DecisionRefused("conflict", f"Since then {shown(later[0])} was decided anew; undo that first.")
    if first := [row for row in rows if row.asset_before is None]:
        raise DecisionRefused("conflict", f"Before that there was no {shown(first[0])}.")
    followed = connection.execute(_FOLLOWED, {"change": change, "methods": [SAME_ID, OVERRIDE]}).all()
    theirs = {row.listing for row in rows} | {row.id for row in followed}
    for emptied in connection.execute(_EMPTIED, {"assets": list({row.asset_before for row in rows})}):
        if emptied.listing not in theirs:
            raise DecisionRefused("conflict", _is_merged(emptied))
    undoing = uuid.uuid4()
    for row in rows:
        evidence = {**row.evidence, "undoes": str(change), "restores": row.before}
        # Or the rule that was undone would decide it again.
        kept = row.method in BY_PEOPLE or row.undone in (*BY_PEOPLE, SAME_ID)
        # Nor is it an override where the file has no such line: the next look would take that out again.
        method = row.method if kept and row.method != OVERRIDE else "pinned"
        restored = Verdict(method, by, row.confidence, evidence, reason)
        move_for_people(connection, [row.listing], row.asset_before, restored, undoing)
    asset_of = {(row.source, row.source_asset_id): row.asset_before for row in rows}
    for row in followed:
        follows = Verdict(SAME_ID, by, evidence={"undoes": str(change)}, reason=reason)
        move_for_people(connection, [row.id], asset_of[row.source, row.source_asset_id], follows, undoing)
    return undoing


def current_asset(connection: Connection, asset: int) -> int:
    """The asset that this one was merged into, if it was: one that only overrides took its listings from was not."""
    emptied = connection.execute(_EMPTIED, {"assets": [asset]}).one_or_none()
    if emptied is None or emptied.decided_by == OVERRIDES:
        return asset
    return current_asset(connection, emptied.merged_into)


def _is_merged(emptied: Row[Any]) -> str:
    if emptied.decided_by == OVERRIDES:
        return f"The file that OVERRIDES names took the last listing of {emptied.slug} since; change it there first."
    return f"Since then {emptied.slug} was merged into {emptied.into}, by change {emptied.change}; undo that first."


_EMPTIED = text("""
    SELECT assets.slug, other.slug AS into, other.id AS merged_into, last.listing, last.change, last.decided_by
      FROM assets JOIN assets AS other ON other.id = assets.merged_into
     CROSS JOIN LATERAL (
           SELECT next.* FROM decisions AS here
            CROSS JOIN LATERAL (SELECT * FROM decisions AS n WHERE n.listing = here.listing AND n.id > here.id
                                 ORDER BY n.id LIMIT 1) AS next
            WHERE here.asset = assets.id AND next.asset <> assets.id ORDER BY next.id DESC LIMIT 1) AS last
     WHERE assets.id = ANY(:assets)
""")
"""Of assets that were merged away: into which, and the decision that took the last listing."""

_BEFORE = text("""
    WITH RECURSIVE standing AS (
        SELECT newest.* FROM (SELECT DISTINCT listing FROM decisions WHERE change = :change) AS those
         CROSS JOIN LATERAL (SELECT n.id, n.evidence FROM decisions AS n WHERE n.listing = those.listing
                              ORDER BY n.id DESC LIMIT 1) AS newest
        UNION ALL
        SELECT d.id, d.evidence FROM standing JOIN decisions AS d ON d.id = (standing.evidence ->> 'restores')::bigint)
    SELECT d.id, d.listing, d.method AS undone, source, source_asset_id, before.id AS before,
           before.asset AS asset_before, before.method, before.confidence, before.evidence,
           d.id IN (SELECT id FROM standing) AS stands
      FROM decisions AS d JOIN listings ON listings.id = d.listing
      LEFT JOIN LATERAL (SELECT * FROM decisions AS b WHERE b.listing = d.listing AND b.id < d.id
                          ORDER BY b.id DESC LIMIT 1) AS before ON true
     WHERE d.change = :change ORDER BY d.id
""")
"""What a change decided, what was before, and whether it holds: the newest decision does, and what that restores."""

_FOLLOWED = text("""
    WITH moved AS (SELECT source, source_asset_id, min(d.id) AS first
                     FROM decisions AS d JOIN listings ON listings.id = d.listing
                    WHERE change = :change GROUP BY source, source_asset_id)
    SELECT listings.id, source, source_asset_id
      FROM moved JOIN listings USING (source, source_asset_id)
     CROSS JOIN LATERAL (SELECT n.id, n.method FROM decisions AS n WHERE n.listing = listings.id
                          ORDER BY n.id DESC LIMIT 1) AS newest
     WHERE newest.id > moved.first AND newest.method = ANY(:methods)
       AND NOT EXISTS (SELECT FROM decisions AS own WHERE own.listing = listings.id AND own.change = :change)
     ORDER BY listings.id
""")
"""The listings that were met since in another currency, and are of an asset because those of the change are."""
