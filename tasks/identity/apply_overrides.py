"""The overrides, followed: a listing that the file names is of the asset it says, all others are what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row, text

from tasks.identity.decisions import (
    OVERRIDE,
    OVERRIDES,
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


def follow_overrides(engine: Engine, overrides: Overrides | None) -> None:
    """Listings that the file names are of the assets it says; those it names no more are what they were before.

    None: no file is named, which takes nothing back. A process may have been started without what others have.
    """
    if overrides is None:
        _say_what_is_not_followed(engine)
        return
    with engine.connect() as connection:
        if not _amiss(connection, overrides):
            return  # and nobody had to wait
    with decision_lock(engine) as connection:
        amiss = _amiss(connection, overrides)
        named = [row for row in amiss if _asset(overrides, row)]
        # All before anything moves: an asset that loses its last listing on the way may be another's target.
        targets = _targets(connection, named, overrides)
        before = {row.id: _before(connection, row) for row in amiss if not _asset(overrides, row)}
        for row in named:
            override = overrides[row.source, row.source_asset_id]
            move(connection, [row.id], targets[override.asset], Verdict(OVERRIDE, OVERRIDES, reason=override.reason))
        for listing, (asset, decided) in before.items():
            move(connection, [listing], asset, decided)


def _say_what_is_not_followed(engine: Engine) -> None:
    with engine.connect() as connection:
        listings = connection.scalar(
            text("SELECT count(*) FROM listings WHERE method = :override"), {"override": OVERRIDE}
        )
    if listings:
        log.warning("overrides_ignored", listings=listings)


def _amiss(connection: Connection, overrides: Overrides) -> list[Row[Any]]:
    """The listings that are not of the asset that the file says, or still are though it says so no more."""
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
    return [row for row in rows if (row.method, row.slug) != (OVERRIDE, _asset(overrides, row))]


def _asset(overrides: Overrides, row: Row[Any]) -> str | None:
    override = overrides.get((row.source, row.source_asset_id))
    return override.asset if override else None


def _targets(connection: Connection, named: Sequence[Row[Any]], overrides: Overrides) -> Mapping[str, int]:
    """By slug the ids of the assets that the file speaks of, each made where it is not there."""
    first = {overrides[row.source, row.source_asset_id].asset: row for row in reversed(named)}
    found = assets_by_slug(connection, first)
    return found | {slug: add_asset(connection, row, slug) for slug, row in first.items() if slug not in found}


def _before(connection: Connection, row: Row[Any]) -> tuple[int, Verdict]:
    """What was before an override; what was met under one goes with the same listing in another currency."""
    before = connection.execute(_BEFORE, {**row._mapping, "override": OVERRIDE}).one_or_none()
    if before is None:
        return row.asset, Verdict("new", OVERRIDES)  # as if a rule had chosen its asset
    asset = current_asset(connection, before.asset)
    if before.listing != row.id:
        return asset, Verdict(SAME_ID, OVERRIDES)
    evidence = {name: it for name, it in before.evidence.items() if name != "undoes"} | {"restores": before.id}
    return asset, Verdict(before.method, OVERRIDES, before.confidence, evidence)


_BEFORE = text("""
    SELECT decisions.id, listing, decisions.asset, decisions.method, decisions.confidence, evidence
      FROM decisions JOIN listings ON listings.id = listing
     WHERE source = :source AND source_asset_id = :source_asset_id AND decisions.method <> :override
     ORDER BY listing = :id DESC, decisions.id DESC LIMIT 1
""")
