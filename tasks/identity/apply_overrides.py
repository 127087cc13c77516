"""Apply the overrides file to stored listings. Restore the previous assets of listings that it no longer names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row, text

from tasks.identity.bulk_moves import Move, move_each
from tasks.identity.decisions import (
    BY_OVERRIDES,
    OVERRIDE,
    SAME_ID,
    Overrides,
    Verdict,
    add_assets,
    assets_by_slug,
    decision_lock,
    listing_fields,
)
from tasks.identity.undo import current_assets

log = structlog.get_logger()


MOVES_PER_TRANSACTION = 100
"""The maximum number of listings to move in a transaction. Between transactions, sources can add listings."""


def apply_overrides(engine: Engine, overrides: Overrides | None) -> None:
    """Do all steps of `override_steps`."""
    for _ in override_steps(engine, overrides):
        pass


def override_steps(engine: Engine, overrides: Overrides | None) -> Iterator[None]:
    """Move the listings in the file to their assets. Restore the previous assets of listings that it no longer names.

    Between steps, no lock is held.
    overrides: None if OVERRIDES is not set. Nothing is restored then, since the setting may be missing by accident.
    """
    if overrides is None:
        _warn_of_ignored_overrides(engine)
        return
    with engine.connect() as connection:
        listings = [row.id for row in _outdated_listings(connection, overrides)]
    for start in range(0, len(listings), MOVES_PER_TRANSACTION):
        yield
        with decision_lock(engine) as connection:
            batch = set(listings[start : start + MOVES_PER_TRANSACTION])
            outdated = _outdated_listings(connection, overrides, batch)
            named = [row for row in outdated if _slug(overrides, row)]
            others = [row for row in outdated if not _slug(overrides, row)]
            # Read all before the first move: an asset that loses its last listing can be the target of another move.
            move_each(connection, [*_naming_moves(connection, named, overrides), *_restoring_moves(connection, others)])


def _warn_of_ignored_overrides(engine: Engine) -> None:
    with engine.connect() as connection:
        listings = connection.scalar(
            text("SELECT count(*) FROM listings WHERE method = :override"), {"override": OVERRIDE}
        )
    if listings:
        log.warning("overrides_ignored", listings=listings)


def _outdated_listings(
    connection: Connection, overrides: Overrides, listings: Set[int] | None = None
) -> list[Row[Any]]:
    """Return the listings whose asset differs from that in the file, and listings that the file no longer names.

    listings: the ids of the listings to check. Default: all.
    """
    if listings is None:
        sources, ids = [source for source, _ in overrides], [id_ for _, id_ in overrides]
        parameters = {"override": OVERRIDE, "sources": sources, "ids": ids}
        rows = connection.execute(_POSSIBLY_OUTDATED, parameters).all()
    else:
        rows = connection.execute(_GIVEN_LISTINGS, {"listings": list(listings)}).all()
    return [
        row
        for row in rows
        if (row.method == OVERRIDE or _slug(overrides, row))
        and (row.method, row.slug) != (OVERRIDE, _slug(overrides, row))
    ]


def _slug(overrides: Overrides, row: Row[Any]) -> str | None:
    override = overrides.get((row.source, row.source_asset_id))
    return override.asset if override else None


def _naming_moves(connection: Connection, named: Sequence[Row[Any]], overrides: Overrides) -> list[Move]:
    """Return the moves of listings to their assets in the file. Create missing assets."""
    by_slug = {overrides[row.source, row.source_asset_id].asset: row for row in reversed(named)}
    existing = assets_by_slug(connection, by_slug)
    add_assets(connection, [(slug, listing_fields(row)) for slug, row in by_slug.items() if slug not in existing])
    assets = assets_by_slug(connection, by_slug)
    chosen = [(row.id, overrides[row.source, row.source_asset_id]) for row in named]
    return [
        Move(listing, assets[override.asset], Verdict(OVERRIDE, BY_OVERRIDES, reason=override.reason))
        for listing, override in chosen
    ]


def _restoring_moves(connection: Connection, rows: Sequence[Row[Any]]) -> list[Move]:
    """Return the moves of listings to the assets that they had before their overrides, with their verdicts.

    A listing without an earlier decision gets the asset of the same id in another quote currency.
    """
    decisions = [
        connection.execute(_LAST_OTHER_DECISION, {**row._mapping, "override": OVERRIDE}).one_or_none() for row in rows
    ]
    assets = current_assets(connection, {decision.asset for decision in decisions if decision})
    return [
        Move(row.id, assets[decision.asset] if decision else row.asset, _verdict_before(row, decision))
        for row, decision in zip(rows, decisions, strict=True)
    ]


def _verdict_before(row: Row[Any], decision: Row[Any] | None) -> Verdict:
    if decision is None:
        return Verdict("new", BY_OVERRIDES)  # the verdict of a rule that creates an asset
    if decision.listing != row.id:
        return Verdict(SAME_ID, BY_OVERRIDES)
    evidence = {name: value for name, value in decision.evidence.items() if name != "undoes"}
    return Verdict(decision.method, BY_OVERRIDES, decision.confidence, evidence | {"restores": decision.id})


_LISTINGS = """
    SELECT listings.id, source, source_asset_id, listings.symbol, listings.name, asset, slug, method
      FROM listings JOIN assets ON assets.id = listings.asset
"""

_POSSIBLY_OUTDATED = text(f"""
    {_LISTINGS} WHERE method = :override OR (source, source_asset_id) IN (
                      SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])))
     ORDER BY listings.id
""")

_GIVEN_LISTINGS = text(f"{_LISTINGS} WHERE listings.id = ANY(:listings) ORDER BY listings.id")

_LAST_OTHER_DECISION = text("""
    SELECT decisions.id, listing, decisions.asset, decisions.method, decisions.confidence, evidence
      FROM decisions JOIN listings ON listings.id = listing
     WHERE source = :source AND source_asset_id = :source_asset_id AND decisions.method <> :override
     ORDER BY listing = :id DESC, decisions.id DESC LIMIT 1
""")
"""The newest decision other than an override, for the listing or else for its id in another quote currency."""
