"""Apply the overrides file to stored listings. Restore the previous assets of listings that it no longer names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row, text

from tasks.identity.decisions import (
    BY_OVERRIDES,
    OVERRIDE,
    SAME_ID,
    Overrides,
    Verdict,
    add_asset,
    assets_by_slug,
    decision_lock,
    move,
)
from tasks.identity.undo import current_asset

log = structlog.get_logger()


def apply_overrides(engine: Engine, overrides: Overrides | None) -> None:
    """Move the listings in the file to their assets. Restore the previous assets of listings that it no longer names.

    overrides: None if OVERRIDES is not set. Nothing is restored then, since the setting may be missing by accident.
    """
    if overrides is None:
        _warn_of_ignored_overrides(engine)
        return
    with engine.connect() as connection:
        if not _outdated_listings(connection, overrides):
            return  # Return without the lock, so that no decision has to wait.
    with decision_lock(engine) as connection:
        outdated = _outdated_listings(connection, overrides)
        named = [row for row in outdated if _slug(overrides, row)]
        # Read everything before the first move: an asset that loses its last listing can be the target of another move.
        targets = _target_assets(connection, named, overrides)
        restored = {row.id: _before_override(connection, row) for row in outdated if not _slug(overrides, row)}
        for row in named:
            override = overrides[row.source, row.source_asset_id]
            move(connection, [row.id], targets[override.asset], Verdict(OVERRIDE, BY_OVERRIDES, reason=override.reason))
        for listing, (asset, verdict) in restored.items():
            move(connection, [listing], asset, verdict)


def _warn_of_ignored_overrides(engine: Engine) -> None:
    with engine.connect() as connection:
        listings = connection.scalar(
            text("SELECT count(*) FROM listings WHERE method = :override"), {"override": OVERRIDE}
        )
    if listings:
        log.warning("overrides_ignored", listings=listings)


def _outdated_listings(connection: Connection, overrides: Overrides) -> list[Row[Any]]:
    """Return the listings whose asset differs from that in the file, and listings that the file no longer names."""
    names = list(overrides)
    rows = connection.execute(
        text("""
            SELECT listings.id, source, source_asset_id, listings.symbol, listings.name, asset, slug, method
              FROM listings JOIN assets ON assets.id = listings.asset
             WHERE method = :override OR (source, source_asset_id) IN (
                   SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])))
             ORDER BY listings.id
        """),
        {"override": OVERRIDE, "sources": [source for source, _ in names], "ids": [id_ for _, id_ in names]},
    )
    return [row for row in rows if (row.method, row.slug) != (OVERRIDE, _slug(overrides, row))]


def _slug(overrides: Overrides, row: Row[Any]) -> str | None:
    override = overrides.get((row.source, row.source_asset_id))
    return override.asset if override else None


def _target_assets(connection: Connection, named: Sequence[Row[Any]], overrides: Overrides) -> Mapping[str, int]:
    """Return, by slug, the ids of the assets in the file. Create missing assets."""
    listings = {overrides[row.source, row.source_asset_id].asset: row for row in reversed(named)}
    existing = assets_by_slug(connection, listings)
    new = {slug: add_asset(connection, row, slug) for slug, row in listings.items() if slug not in existing}
    return existing | new


def _before_override(connection: Connection, row: Row[Any]) -> tuple[int, Verdict]:
    """Return the asset and the verdict that a listing had before its override.

    A listing without an earlier decision gets the asset of the same id in another quote currency.
    """
    before = connection.execute(_LAST_OTHER_DECISION, {**row._mapping, "override": OVERRIDE}).one_or_none()
    if before is None:
        return row.asset, Verdict("new", BY_OVERRIDES)  # Use the verdict of a rule that creates an asset.
    asset = current_asset(connection, before.asset)
    if before.listing != row.id:
        return asset, Verdict(SAME_ID, BY_OVERRIDES)
    evidence = {name: value for name, value in before.evidence.items() if name != "undoes"} | {"restores": before.id}
    return asset, Verdict(before.method, BY_OVERRIDES, before.confidence, evidence)


_LAST_OTHER_DECISION = text("""
    SELECT decisions.id, listing, decisions.asset, decisions.method, decisions.confidence, evidence
      FROM decisions JOIN listings ON listings.id = listing
     WHERE source = :source AND source_asset_id = :source_asset_id AND decisions.method <> :override
     ORDER BY listing = :id DESC, decisions.id DESC LIMIT 1
""")
"""The newest decision other than an override, for the listing or else for its id in another quote currency."""
