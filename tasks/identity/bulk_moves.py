"""Move many listings, each to its own asset, in a few statements. `decisions.move` moves listings to one asset."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from tasks.identity.decisions import Verdict, record


@dataclass(frozen=True)
class Move:
    """The assignment of a listing to an asset, both given by id. Moves of one change are undone together."""

    listing: int
    asset: int
    verdict: Verdict
    change: uuid.UUID = field(default_factory=uuid.uuid4)


def move_each(connection: Connection, moves: Sequence[Move]) -> None:
    """Make all moves at once. Call this under `decision_lock`.

    An asset that loses its last listing is merged into the asset that received it.
    """
    if not moves:
        return
    listings = [move.listing for move in moves]
    previous = {row.id: row.asset for row in connection.execute(_ASSETS_OF_LISTINGS, {"listings": listings})}
    assignments = [(move.listing, move.asset) for move in moves]
    record(connection, assignments, [move.verdict for move in moves], [move.change for move in moves])
    assets = [move.asset for move in moves]
    values = {
        "methods": [move.verdict.method for move in moves],
        "confidences": [move.verdict.confidence for move in moves],
    }
    connection.execute(_MOVE_LISTINGS, {"listings": listings, "assets": assets, **values})
    heirs: dict[int, int | None] = dict.fromkeys(assets)
    heirs |= {previous[listing]: asset for listing, asset in assignments if previous[listing] != asset}
    connection.execute(_UPDATE_MERGED_INTO, {"assets": list(heirs), "heirs": list(heirs.values())})


_ASSETS_OF_LISTINGS = text("SELECT id, asset FROM listings WHERE id = ANY(:listings)")

_MOVE_LISTINGS = text("""
    UPDATE listings SET asset = moved.asset, method = moved.method, confidence = moved.confidence
      FROM unnest(CAST(:listings AS int[]), CAST(:assets AS int[]), CAST(:methods AS text[]),
                  CAST(:confidences AS numeric[])) AS moved(listing, asset, method, confidence)
     WHERE listings.id = moved.listing
""")

_UPDATE_MERGED_INTO = text("""
    UPDATE assets SET merged_into = CASE WHEN NOT EXISTS (SELECT FROM listings WHERE asset = assets.id)
                                         THEN changed.heir END
      FROM unnest(CAST(:assets AS bigint[]), CAST(:heirs AS bigint[])) AS changed(asset, heir)
     WHERE assets.id = changed.asset AND (heir IS NOT NULL OR merged_into IS NOT NULL)
""")
