"""The overrides, followed: a listing that the file names is of the asset it says, all others are what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from tasks.decisions import OVERRIDE, SAME_ID, Decided, Overrides, add_asset, assets_named, move

BY = "overrides"


def follow_overrides(connection: Connection, overrides: Overrides) -> None:
    """Listings that the file names are of the assets it says; those it names no more are what they were before."""
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
    ).all()
    named = [row for row in rows if (row.source, row.source_asset_id) in overrides]
    # All before anything moves: an asset that loses its last listing on the way may be another's target.
    targets = _targets(connection, named, overrides)
    for row in rows:
        override = overrides.get((row.source, row.source_asset_id))
        if override is None:
            _restore(connection, row)
        elif (row.method, row.slug) != (OVERRIDE, override.asset):
            move(connection, [row.id], targets[override.asset], Decided(OVERRIDE, BY, reason=override.reason))


def _targets(connection: Connection, named: Sequence[Row[Any]], overrides: Overrides) -> Mapping[str, int]:
    """By slug the ids of the assets that the file speaks of, each made where it is not there."""
    first = {overrides[row.source, row.source_asset_id].asset: row for row in reversed(named)}
    found = assets_named(connection, first)
    return found | {slug: add_asset(connection, row, slug) for slug, row in first.items() if slug not in found}


def _restore(connection: Connection, row: Row[Any]) -> None:
    """As it was before an override; what was met under one goes with the same listing in another currency."""
    before = connection.execute(_BEFORE, {**row._mapping, "override": OVERRIDE}).one_or_none()
    if before is None:
        move(connection, [row.id], row.asset, Decided("new", BY))  # as if a rule had chosen its asset
    elif before.listing != row.id:
        move(connection, [row.id], before.asset, Decided(SAME_ID, BY))
    else:
        evidence = {"restores": before.id, **before.evidence}
        move(connection, [row.id], before.asset, Decided(before.method, BY, before.confidence, evidence))


_BEFORE = text("""
    SELECT decisions.id, listing, decisions.asset, decisions.method, decisions.confidence, evidence
      FROM decisions JOIN listings ON listings.id = listing
     WHERE source = :source AND source_asset_id = :source_asset_id AND decisions.method <> :override
     ORDER BY listing = :id DESC, decisions.id DESC LIMIT 1
""")
