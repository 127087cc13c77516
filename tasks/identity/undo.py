"""Undo changes: move each listing back to the asset that it belonged to before."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from tasks.identity.decisions import (
    BY_OVERRIDES,
    OVERRIDE,
    PEOPLE_METHODS,
    SAME_ID,
    DecisionRefused,
    Verdict,
    describe_listing,
    move_for_people,
)


def revert_change(connection: Connection, change: uuid.UUID, by: str, reason: str | None) -> uuid.UUID:
    """Restore the previous asset of each listing in a change. Return the id of the undo, which can also be undone.

    Listings that were added later, with the same id in another quote currency, move with them.
    Call this under `decision_lock`. Raise DecisionRefused if a later decision builds on the change.
    """
    rows = connection.execute(_DECISIONS_OF_CHANGE, {"change": change}).all()
    followers = connection.execute(_FOLLOWERS, {"change": change, "methods": [SAME_ID, OVERRIDE]}).all()
    _check_is_undoable(connection, change, rows, followers)
    undo = uuid.uuid4()
    for row in rows:
        move_for_people(connection, [row.listing], row.asset_before, _restored(row, change, by, reason), undo)
    assets = {(row.source, row.source_asset_id): row.asset_before for row in rows}
    verdict = Verdict(SAME_ID, by, evidence={"undoes": str(change)}, reason=reason)
    for row in followers:
        move_for_people(connection, [row.id], assets[row.source, row.source_asset_id], verdict, undo)
    return undo


def _check_is_undoable(
    connection: Connection, change: uuid.UUID, rows: Sequence[Row[Any]], followers: Sequence[Row[Any]]
) -> None:
    if not rows:
        raise DecisionRefused("unknown_change", f"There is no change {change}. `GET /decisions` lists the changes.")
    if later := [row for row in rows if not row.is_current]:
        raise DecisionRefused(
            "conflict", f"The listing {describe_listing(later[0])} was decided again later; undo that change first."
        )
    if first := [row for row in rows if row.asset_before is None]:
        raise DecisionRefused(
            "conflict", f"The listing {describe_listing(first[0])} has no earlier decision that could be restored."
        )
    moving = {row.listing for row in rows} | {row.id for row in followers}
    for asset in connection.execute(_MERGED_ASSETS, {"assets": list({row.asset_before for row in rows})}):
        if asset.listing not in moving:
            raise DecisionRefused("conflict", _merged_message(asset))


def _restored(row: Row[Any], change: uuid.UUID, by: str, reason: str | None) -> Verdict:
    """Return the verdict that restores the decision before `row`."""
    evidence = {**row.evidence, "undoes": str(change), "restores": row.before}
    # Undoing a rule's decision must pin the listing: otherwise the rule would decide the same again.
    keeps_method = row.method in PEOPLE_METHODS or row.undone in (*PEOPLE_METHODS, SAME_ID)
    # A restored override is pinned too. The file has no line for it, so the next rematch would release it.
    method = row.method if keeps_method and row.method != OVERRIDE else "pinned"
    return Verdict(method, by, row.confidence, evidence, reason)


def current_assets(connection: Connection, assets: Iterable[int]) -> dict[int, int]:
    """Return, by the id of each asset, the id of the asset that it was merged into, or its own id.

    An asset whose last listing was moved by the overrides file does not count as merged.
    """
    current = {asset: asset for asset in assets}
    while current:
        merged = {
            row.id: row.merged_into
            for row in connection.execute(_MERGED_ASSETS, {"assets": list({*current.values()})})
            if row.decided_by != BY_OVERRIDES
        }
        if not merged:
            break
        current = {asset: merged.get(target, target) for asset, target in current.items()}
    return current


def _merged_message(asset: Row[Any]) -> str:
    if asset.decided_by == BY_OVERRIDES:
        return f"The overrides file (OVERRIDES) moved the last listing of {asset.slug} later; edit the file first."
    return f"{asset.slug} was merged into {asset.into} later, by change {asset.change}; undo that change first."


_MERGED_ASSETS = text("""
    WITH placed AS MATERIALIZED (SELECT id, listing, asset FROM decisions WHERE asset = ANY(:assets))
    SELECT assets.id, assets.slug, target.slug AS into, target.id AS merged_into, last.listing, last.change,
           last.decided_by
      FROM assets JOIN assets AS target ON target.id = assets.merged_into
     CROSS JOIN LATERAL (
           SELECT following.* FROM placed AS own
            CROSS JOIN LATERAL (SELECT * FROM decisions AS d WHERE d.listing = own.listing AND d.id > own.id
                                 ORDER BY d.id LIMIT 1) AS following
            WHERE own.asset = assets.id AND following.asset <> assets.id ORDER BY following.id DESC LIMIT 1) AS last
     WHERE assets.id = ANY(:assets)
""")
"""The merged assets among these assets, with their target and the decision that moved their last listing. The decisions
about all of these assets are read at once, since no index finds them."""

_DECISIONS_OF_CHANGE = text("""
    WITH RECURSIVE current AS (
        SELECT newest.* FROM (SELECT DISTINCT listing FROM decisions WHERE change = :change) AS changed
         CROSS JOIN LATERAL (SELECT d.id, d.evidence FROM decisions AS d WHERE d.listing = changed.listing
                              ORDER BY d.id DESC LIMIT 1) AS newest
        UNION ALL
        SELECT d.id, d.evidence FROM current JOIN decisions AS d ON d.id = (current.evidence ->> 'restores')::bigint)
    SELECT d.id, d.listing, d.method AS undone, source, source_asset_id, before.id AS before,
           before.asset AS asset_before, before.method, before.confidence, before.evidence,
           d.id IN (SELECT id FROM current) AS is_current
      FROM decisions AS d JOIN listings ON listings.id = d.listing
      LEFT JOIN LATERAL (SELECT * FROM decisions AS b WHERE b.listing = d.listing AND b.id < d.id
                          ORDER BY b.id DESC LIMIT 1) AS before ON true
     WHERE d.change = :change ORDER BY d.id
""")
"""The decisions of a change, each with the decision before it.

is_current: whether it is still in force: as the listing's newest decision, or restored by the newest decision.
"""

_FOLLOWERS = text("""
    WITH changed AS (SELECT source, source_asset_id, min(d.id) AS first
                       FROM decisions AS d JOIN listings ON listings.id = d.listing
                      WHERE change = :change GROUP BY source, source_asset_id)
    SELECT listings.id, source, source_asset_id
      FROM changed JOIN listings USING (source, source_asset_id)
     CROSS JOIN LATERAL (SELECT d.id, d.method FROM decisions AS d WHERE d.listing = listings.id
                          ORDER BY d.id DESC LIMIT 1) AS newest
     WHERE newest.id > changed.first AND newest.method = ANY(:methods)
       AND NOT EXISTS (SELECT FROM decisions AS own WHERE own.listing = listings.id AND own.change = :change)
     ORDER BY listings.id
""")
"""Listings that were added after the change, with the same id as one of its listings in another quote currency."""
