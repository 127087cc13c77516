"""The overrides, followed: a listing that the file names is of the asset it says, all others are what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from tasks.decisions import OVERRIDE, Decided, Overrides, add_asset, assets_named, move

BY = "overrides"


def follow_overrides(connection: Connection, overrides: Overrides) -> None:
    """Listings that the file names are of the assets it says; those it names no more are what they were before."""
    names = list(overrides)
    rows = connection.execute(
        text("""
            SELECT listings.id, source, source_asset_id, listings.symbol, listings.name, slug, method FROM listings
              JOIN assets ON assets.id = listings.asset
             WHERE method = :override OR (source, source_asset_id) IN (
                   SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])))
             ORDER BY listings.id
        """),
        {"override": OVERRIDE, "sources": [source for source, _ in names], "ids": [id_ for _, id_ in names]},
    ).all()
    named = [row for row in rows if (row.source, row.source_asset_id) in overrides]
    # All before anything moves: an asset that loses its last listing on the way may be another's target.
    targets = _targets(connection, named, overrides)
    for row in rows:
        override = overrides.get((row.source, row.source_asset_id))
        if override is None:
            _restore(connection, row.id)
        elif (row.method, row.slug) != (OVERRIDE, override.asset):
            move(connection, [row.id], targets[override.asset], Decided(OVERRIDE, BY, reason=override.reason))


def _targets(connection: Connection, named: Sequence[Row[Any]], overrides: Overrides) -> Mapping[str, int]:
    """By slug the ids of the assets that the file speaks of, each made where it is not there."""
    first = {overrides[row.source, row.source_asset_id].asset: row for row in reversed(named)}
    found = assets_named(connection, first)
    return found | {slug: add_asset(connection, row, slug) for slug, row in first.items() if slug not in found}


def _restore(connection: Connection, listing: int) -> None:
    """As it was before an override; a listing that was met under one keeps its asset, as if a rule had chosen it."""
    before = connection.execute(
        text("""
            SELECT id, asset, method, confidence, evidence FROM decisions
             WHERE listing = :listing ORDER BY method = :override, id DESC LIMIT 1
        """),
        {"listing": listing, "override": OVERRIDE},
    ).one()
    method = "new" if before.method == OVERRIDE else before.method
    evidence = {"restores": before.id, **before.evidence}
    move(connection, [listing], before.asset, Decided(method, BY, before.confidence, evidence))
