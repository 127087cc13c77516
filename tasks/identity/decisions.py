"""Which asset listings are of, decided by people: merged, split off, pinned. No quote is touched by it.

Every decision is a row of its own, and a listing's newest one holds. What a person decided, no rule decides anew.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, text

from sources.record_columns import ListingFields
from tasks.identity.slugs import Slugs

ListingName = tuple[str, str]
"""source and source_asset_id: a listing in all its quote currencies."""


class Override(NamedTuple):
    """asset: the slug of the one that the listing is of, which is made where it is not there."""

    asset: str
    reason: str


Overrides = Mapping[ListingName, Override]

OVERRIDE, SAME_ID = "override", "same_id"
OVERRIDES = "overrides"
"""Who decided it, where the file did, or a line of it that was taken out."""

BY_PEOPLE = (OVERRIDE, "merged", "split", "pinned")
"""Methods that only another person's decision replaces."""

# One lock for all sources: two that meet Bitcoin at once must not make it twice.
_RESOLVE_LOCK = 7_274_652


class DecisionRefused(Exception):
    """What was asked for cannot be decided, in sentences that may be shown to anyone.

    code: unknown_asset, unknown_listing, unknown_change or conflict. each: what is wrong with each of several.
    """

    def __init__(self, code: str, detail: str, each: Sequence[str] = ()):
        super().__init__(detail)
        self.code, self.each = code, each


@dataclass(frozen=True)
class Verdict:
    """What is decided of listings. by: a part of the service, or who asked for it. confidence: 0 to 1."""

    method: str
    by: str
    confidence: float = 1
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


@contextmanager
def decision_lock(engine: Engine) -> Iterator[Connection]:
    """A transaction in which nobody else decides anything."""
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _RESOLVE_LOCK})
        yield connection


def merge(connection: Connection, slug: str, into: str, decided: Verdict) -> uuid.UUID:
    """All listings of an asset are of another from now on, and its slug stands for that one. Gives the change's id.

    This and its like are for a transaction of `deciding`, and raise Refused.
    """
    one, other = find_asset(connection, slug), find_asset(connection, into)
    if one.id == other.id:
        raise DecisionRefused("conflict", f"These are one asset already: {slug}, {into}.")
    return move_for_people(connection, listings_of(connection, one.id), other.id, decided)


class Split(NamedTuple):
    """made: the slug of the asset that was made."""

    change: uuid.UUID
    made: str


def split(connection: Connection, slug: str, names: Sequence[ListingName], decided: Verdict) -> Split:
    """These listings of an asset are of one of their own from now on."""
    asset = find_asset(connection, slug)
    leaving = _named(connection, names)
    if strangers := [row for row in leaving if row.asset != asset.id]:
        raise DecisionRefused("conflict", f"Among the listings of {asset.slug} there is no {shown(strangers[0])}.")
    if len(leaving) == len(listings_of(connection, asset.id)):
        raise DecisionRefused("conflict", f"Those are all listings of {asset.slug}; one must stay.")
    made = free_slug(connection, leaving[0])
    new = add_asset(connection, leaving[0], made)
    return Split(move_for_people(connection, [row.id for row in leaving], new, decided), made)


def pin(connection: Connection, slug: str, names: Sequence[ListingName], decided: Verdict) -> uuid.UUID:
    """These listings, whatever they were of, are of this asset, and no rule moves them. Gives the change's id."""
    asset = find_asset(connection, slug)
    return move_for_people(connection, [row.id for row in _named(connection, names)], asset.id, decided)


def move(
    connection: Connection, listings: Sequence[int], asset: int, decided: Verdict, change: uuid.UUID | None = None
) -> uuid.UUID:
    """Decide that these listings, by their ids, are of this asset; gives the change's id.

    An asset that has no listing left is merged into the one that its last listing went to.
    """
    change = change or uuid.uuid4()
    left = connection.scalars(_ASSETS_OF, {"listings": list(listings)}).all()
    record(connection, [(listing, asset) for listing in listings], [decided] * len(listings), change)
    told = {"method": decided.method, "confidence": decided.confidence}
    connection.execute(_MOVE, {"listings": list(listings), "asset": asset, **told})
    connection.execute(_SETTLE, {"left": [it for it in left if it != asset], "asset": asset})
    return change


_ASSETS_OF = text("SELECT DISTINCT asset FROM listings WHERE id = ANY(:listings)")

_MOVE = text("""
    UPDATE listings SET asset = :asset, method = :method, confidence = :confidence WHERE id = ANY(:listings)
""")

_SETTLE = text("""
    UPDATE assets SET merged_into = CASE WHEN id = :asset OR EXISTS (SELECT FROM listings WHERE asset = assets.id)
                                         THEN NULL ELSE CAST(:asset AS bigint) END
     WHERE id = ANY(CAST(:left AS bigint[])) OR (id = :asset AND merged_into IS NOT NULL)
""")


def move_for_people(
    connection: Connection, listings: Sequence[int], asset: int, decided: Verdict, change: uuid.UUID | None = None
) -> uuid.UUID:
    """The same, unless the file of overrides has another word for it; raises Refused."""
    settled = text("SELECT source, source_asset_id FROM listings WHERE id = ANY(:listings) AND method = :override")
    row = connection.execute(settled, {"listings": list(listings), "override": OVERRIDE}).first()
    if row is not None:
        raise DecisionRefused("conflict", f"The file that OVERRIDES names settles {shown(row)}; change it there.")
    return move(connection, listings, asset, decided, change)


def record(
    connection: Connection,
    those: Sequence[tuple[int, int]],
    decided: Sequence[Verdict],
    change: uuid.UUID | None = None,
) -> None:
    """Keep decisions. those: for each its listing and its asset."""
    connection.execute(
        text("""
            INSERT INTO decisions (change, listing, asset, method, confidence, evidence, decided_by, reason)
            SELECT CAST(:change AS uuid), it.listing, it.asset, it.method, it.confidence, CAST(it.evidence AS jsonb),
                   it.by, it.reason
              FROM unnest(CAST(:listings AS int[]), CAST(:assets AS bigint[]), CAST(:methods AS text[]),
                          CAST(:confidences AS numeric[]), CAST(:evidences AS text[]), CAST(:bys AS text[]),
                          CAST(:reasons AS text[]))
                AS it(listing, asset, method, confidence, evidence, by, reason)
        """),
        {
            "change": change,
            "listings": [listing for listing, _ in those],
            "assets": [asset for _, asset in those],
            "methods": [it.method for it in decided],
            "confidences": [it.confidence for it in decided],
            "evidences": [json.dumps(it.evidence) for it in decided],
            "bys": [it.by for it in decided],
            "reasons": [it.reason for it in decided],
        },
    )


def find_asset(connection: Connection, slug: str) -> Row[Any]:
    """The asset that a slug stands for; raises Refused."""
    found = connection.execute(ASSETS_BY_SLUG, {"slugs": [slug]}).one_or_none()
    if found is None:
        raise DecisionRefused("unknown_asset", f"There is no asset {slug!r}.")
    return found


ASSETS_BY_SLUG = text("""
    WITH RECURSIVE step AS (
        SELECT slug AS asked, id, slug, merged_into FROM assets WHERE slug = ANY(:slugs)
        UNION
        SELECT step.asked, assets.id, assets.slug, assets.merged_into
          FROM step JOIN assets ON assets.id = step.merged_into)
    SELECT asked, id, slug FROM step WHERE merged_into IS NULL
""")
"""The assets that slugs stand for: where one was merged into another, that one."""


def assets_by_slug(connection: Connection, slugs: Iterable[str]) -> dict[str, int]:
    """By slug the ids of the assets that have exactly these, wherever they were merged."""
    rows = connection.execute(text("SELECT slug, id FROM assets WHERE slug = ANY(:slugs)"), {"slugs": list(slugs)})
    return {row.slug: row.id for row in rows}


def free_slug(connection: Connection, listing: Row[Any]) -> str:
    """What an asset can be called that is made for a listing."""
    listed = _listed(listing)
    return Slugs(connection, [listed]).free(listed)


def add_asset(connection: Connection, listing: Row[Any], slug: str) -> int:
    """Make an asset for a listing, with a slug that no other has; gives its id."""
    add_assets(connection, [(slug, _listed(listing))])
    return assets_by_slug(connection, [slug])[slug]


def _listed(listing: Row[Any]) -> ListingFields:
    return ListingFields(listing.source_asset_id, listing.symbol, listing.name, "")


def add_assets(connection: Connection, new: Sequence[tuple[str, ListingFields]]) -> None:
    """Make assets with these slugs, which no other has."""
    connection.execute(
        text("""
            INSERT INTO assets (slug, symbol, name)
            SELECT * FROM unnest(CAST(:slugs AS text[]), CAST(:symbols AS text[]), CAST(:names AS text[]))
        """),
        {
            "slugs": [slug for slug, _ in new],
            "symbols": [one.symbol.upper() for _, one in new],
            "names": [one.name for _, one in new],
        },
    )


def listings_of(connection: Connection, asset: int) -> list[int]:
    """The ids of an asset's listings."""
    return list(connection.scalars(text("SELECT id FROM listings WHERE asset = :asset ORDER BY id"), {"asset": asset}))


def _named(connection: Connection, names: Sequence[ListingName]) -> list[Row[Any]]:
    """The listings of these names, in all their quote currencies, each once."""
    names = list(dict.fromkeys(names))
    rows = connection.execute(
        text("""
            SELECT id, asset, source, source_asset_id, symbol, name FROM listings
              JOIN unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS it(source, source_asset_id)
             USING (source, source_asset_id) ORDER BY id
        """),
        {"sources": [source for source, _ in names], "ids": [id_ for _, id_ in names]},
    ).all()
    there = {(row.source, row.source_asset_id) for row in rows}
    if missing := [f"There is no {id_!r} of {source}." for source, id_ in names if (source, id_) not in there]:
        raise DecisionRefused("unknown_listing", " ".join(missing[:3]), missing)
    return list(rows)


def shown(row: Row[Any]) -> str:
    return f"{row.source_asset_id!r} of {row.source}"
