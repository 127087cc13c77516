"""Record which asset a listing belongs to. Apply people's decisions: merge, split and pin.

Each decision is a separate row, and the newest row of a listing applies. Rules never change people's decisions. Quotes
are never rewritten.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from psycopg2.errorcodes import LOCK_NOT_AVAILABLE
from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import OperationalError

from sources.record_columns import ListingFields
from store.errors import sqlstate
from store.locks import Lock, lock_statement
from tasks.identity.slugs import Slugs

ListingName = tuple[str, str]
"""source and source_asset_id. They name the listings of an asset in all quote currencies."""


class Override(NamedTuple):
    """A line of the overrides file. asset: the slug of the listing's asset, which is created if it does not exist."""

    asset: str
    reason: str


Overrides = Mapping[ListingName, Override]

OVERRIDE, SAME_ID = "override", "same_id"
BY_OVERRIDES = "overrides"
"""The author of decisions that apply or revert a line of the overrides file."""

PEOPLE_METHODS = (OVERRIDE, "merged", "split", "pinned")
"""Methods of decisions that only a person can replace."""

_LOCK_TIMEOUT = 1.0
"""Maximum seconds of one wait for the lock. A wait is part of a transaction, and shortens its remaining time."""


class DecisionRefused(Exception):
    """A decision was refused. The message is safe to show to any client.

    code: unknown_asset, unknown_listing, unknown_change or conflict. details: one message for each unknown listing.
    """

    def __init__(self, code: str, detail: str, details: Sequence[str] = ()):
        super().__init__(detail)
        self.code, self.details = code, details


@dataclass(frozen=True)
class Verdict:
    """The method and reason of a listing's assignment. by: the author. confidence: from 0 to 1."""

    method: str
    by: str
    confidence: float = 1
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


@contextmanager
def decision_lock(engine: Engine, *, patience: float = 5.0) -> Iterator[Connection]:
    """Open a transaction that blocks decisions in other transactions.

    There is one lock for all sources: if two sources list Bitcoin for the first time, only one of them may create it.

    patience: seconds to wait for the lock. After that, raise OperationalError with LOCK_NOT_AVAILABLE.
    """
    until = time.monotonic() + patience
    with engine.connect() as connection:
        while True:
            try:
                _take_lock(connection, min(_LOCK_TIMEOUT, patience))
                break
            except OperationalError as error:
                if sqlstate(error) != LOCK_NOT_AVAILABLE or time.monotonic() >= until:
                    raise
                connection.rollback()
        yield connection
        connection.commit()


def _take_lock(connection: Connection, seconds: float) -> None:
    """Take the lock until the end of the transaction, in one round trip."""
    connection.exec_driver_sql(f"""
        SET LOCAL lock_timeout = {max(1, int(seconds * 1000))};
        {lock_statement(Lock.DECISIONS)};
        SET LOCAL lock_timeout TO DEFAULT
    """)


def merge(connection: Connection, slug: str, into: str, verdict: Verdict) -> uuid.UUID:
    """Move all listings of the asset `slug` to the asset `into`. Return the id of the change.

    Afterwards, `slug` refers to the other asset. Call this, `split` and `pin` under `decision_lock`.
    They raise DecisionRefused.
    """
    source, target = find_asset(connection, slug), find_asset(connection, into)
    if source.id == target.id:
        raise DecisionRefused("conflict", f"{slug} and {into} are already the same asset.")
    return move_for_people(connection, listings_of(connection, source.id), target.id, verdict)


class Split(NamedTuple):
    """The result of a split: the id of the change, and the slug of the new asset."""

    change: uuid.UUID
    slug: str


def split(connection: Connection, slug: str, names: Sequence[ListingName], verdict: Verdict) -> Split:
    """Move some listings of an asset to a new asset."""
    asset = find_asset(connection, slug)
    listings = _listings_by_name(connection, names)
    if foreign_listings := [row for row in listings if row.asset != asset.id]:
        raise DecisionRefused(
            "conflict", f"The listing {describe_listing(foreign_listings[0])} does not belong to {asset.slug}."
        )
    if len(listings) == len(listings_of(connection, asset.id)):
        raise DecisionRefused("conflict", f"These are all listings of {asset.slug}; at least one must stay.")
    new_slug = reserve_slug(connection, listings[0])
    new = add_asset(connection, listings[0], new_slug)
    return Split(move_for_people(connection, [row.id for row in listings], new, verdict), new_slug)


def pin(connection: Connection, slug: str, names: Sequence[ListingName], verdict: Verdict) -> uuid.UUID:
    """Assign listings to an asset, so that rules no longer move them. Return the id of the change."""
    asset = find_asset(connection, slug)
    return move_for_people(connection, [row.id for row in _listings_by_name(connection, names)], asset.id, verdict)


def move(
    connection: Connection, listings: Sequence[int], asset: int, verdict: Verdict, change: uuid.UUID | None = None
) -> uuid.UUID:
    """Assign listings to an asset, all given by id, and record the decision. Return the id of the change.

    An asset that loses its last listing is merged into this asset.
    """
    change = change or uuid.uuid4()
    previous = connection.scalars(_ASSETS_OF_LISTINGS, {"listings": list(listings)}).all()
    record(connection, [(listing, asset) for listing in listings], [verdict] * len(listings), [change] * len(listings))
    assignment = {"asset": asset, "method": verdict.method, "confidence": verdict.confidence}
    connection.execute(_MOVE_LISTINGS, {"listings": list(listings), **assignment})
    connection.execute(_UPDATE_MERGED_INTO, {"previous": [id_ for id_ in previous if id_ != asset], "asset": asset})
    return change


_ASSETS_OF_LISTINGS = text("SELECT DISTINCT asset FROM listings WHERE id = ANY(:listings)")

_MOVE_LISTINGS = text("""
    UPDATE listings SET asset = :asset, method = :method, confidence = :confidence WHERE id = ANY(:listings)
""")

_UPDATE_MERGED_INTO = text("""
    UPDATE assets SET merged_into = CASE WHEN id = :asset OR EXISTS (SELECT FROM listings WHERE asset = assets.id)
                                         THEN NULL ELSE CAST(:asset AS bigint) END
     WHERE id = ANY(CAST(:previous AS bigint[])) OR (id = :asset AND merged_into IS NOT NULL)
""")


def move_for_people(
    connection: Connection, listings: Sequence[int], asset: int, verdict: Verdict, change: uuid.UUID | None = None
) -> uuid.UUID:
    """Move listings as `move` does, but raise DecisionRefused if the overrides file names one of them."""
    overridden = text("SELECT source, source_asset_id FROM listings WHERE id = ANY(:listings) AND method = :override")
    row = connection.execute(overridden, {"listings": list(listings), "override": OVERRIDE}).first()
    if row is not None:
        raise DecisionRefused(
            "conflict", f"The overrides file (OVERRIDES) decides the listing {describe_listing(row)}; edit the file."
        )
    return move(connection, listings, asset, verdict, change)


def record(
    connection: Connection,
    assignments: Sequence[tuple[int, int]],
    verdicts: Sequence[Verdict],
    changes: Sequence[uuid.UUID] | None = None,
) -> None:
    """Insert a row into `decisions` for each assignment.

    assignments: pairs of a listing id and an asset id. changes: the id of each assignment's change.
    """
    connection.execute(
        text("""
            INSERT INTO decisions (change, listing, asset, method, confidence, evidence, decided_by, reason,
                                   decided_at)
            SELECT new.change, new.listing, new.asset, new.method, new.confidence,
                   CAST(new.evidence AS jsonb), new.decided_by, new.reason, (SELECT service_time())
              FROM unnest(CAST(:changes AS uuid[]), CAST(:listings AS int[]), CAST(:assets AS bigint[]),
                          CAST(:methods AS text[]), CAST(:confidences AS numeric[]), CAST(:evidences AS text[]),
                          CAST(:authors AS text[]), CAST(:reasons AS text[]))
                AS new(change, listing, asset, method, confidence, evidence, decided_by, reason)
        """),
        {
            "changes": [str(change) for change in changes] if changes else [None] * len(assignments),
            "listings": [listing for listing, _ in assignments],
            "assets": [asset for _, asset in assignments],
            "methods": [verdict.method for verdict in verdicts],
            "confidences": [verdict.confidence for verdict in verdicts],
            "evidences": [json.dumps(verdict.evidence) for verdict in verdicts],
            "authors": [verdict.by for verdict in verdicts],
            "reasons": [verdict.reason for verdict in verdicts],
        },
    )


def find_asset(connection: Connection, slug: str) -> Row[Any]:
    """Return the asset (`id`, `slug`) that a slug refers to. Raise DecisionRefused if there is none."""
    asset = connection.execute(ASSETS_BY_SLUG, {"slugs": [slug]}).one_or_none()
    if asset is None:
        raise DecisionRefused("unknown_asset", f"There is no asset {slug!r}.")
    return asset


ASSETS_BY_SLUG = text("""
    WITH RECURSIVE step AS (
        SELECT slug AS requested, id, slug, merged_into FROM assets WHERE slug = ANY(:slugs)
        UNION
        SELECT step.requested, assets.id, assets.slug, assets.merged_into
          FROM step JOIN assets ON assets.id = step.merged_into)
    SELECT requested, id, slug FROM step WHERE merged_into IS NULL
""")
"""The assets that slugs refer to. The slug of a merged asset refers to the asset that it was merged into."""


def assets_by_slug(connection: Connection, slugs: Iterable[str]) -> dict[str, int]:
    """Return, by slug, the ids of the assets with exactly these slugs, including merged assets."""
    rows = connection.execute(text("SELECT slug, id FROM assets WHERE slug = ANY(:slugs)"), {"slugs": list(slugs)})
    return {row.slug: row.id for row in rows}


def reserve_slug(connection: Connection, listing: Row[Any]) -> str:
    """Return a free slug for a new asset with this listing."""
    fields = listing_fields(listing)
    return Slugs(connection, [fields]).reserve(fields)


def add_asset(connection: Connection, listing: Row[Any], slug: str) -> int:
    """Create an asset for a listing, with an unused slug. Return its id."""
    add_assets(connection, [(slug, listing_fields(listing))])
    return assets_by_slug(connection, [slug])[slug]


def listing_fields(listing: Row[Any]) -> ListingFields:
    """Return the fields of a listing that name its asset, without the quote currency."""
    return ListingFields(listing.source_asset_id, listing.symbol, listing.name, "")


def add_assets(connection: Connection, new: Sequence[tuple[str, ListingFields]]) -> None:
    """Create an asset for each pair of an unused slug and a listing."""
    connection.execute(
        text("""
            INSERT INTO assets (slug, symbol, name, created_at)
            SELECT new.*, (SELECT service_time())
              FROM unnest(CAST(:slugs AS text[]), CAST(:symbols AS text[]), CAST(:names AS text[])) AS new
        """),
        {
            "slugs": [slug for slug, _ in new],
            "symbols": [listing.symbol.upper() for _, listing in new],
            "names": [listing.name for _, listing in new],
        },
    )


def separate_assets(connection: Connection, slugs: Iterable[str]) -> None:
    """Separate the assets with these slugs from the assets that they were merged into."""
    connection.execute(
        text("UPDATE assets SET merged_into = NULL WHERE slug = ANY(:slugs) AND merged_into IS NOT NULL"),
        {"slugs": list(slugs)},
    )


def listings_of(connection: Connection, asset: int) -> list[int]:
    """Return the ids of an asset's listings."""
    return list(connection.scalars(text("SELECT id FROM listings WHERE asset = :asset ORDER BY id"), {"asset": asset}))


def _listings_by_name(connection: Connection, names: Sequence[ListingName]) -> list[Row[Any]]:
    """Return the listings with these names, in all their quote currencies. Raise DecisionRefused if one is missing."""
    names = list(dict.fromkeys(names))
    rows = connection.execute(
        text("""
            SELECT id, asset, source, source_asset_id, symbol, name FROM listings
              JOIN unnest(CAST(:sources AS text[]), CAST(:ids AS text[])) AS named(source, source_asset_id)
             USING (source, source_asset_id) ORDER BY id
        """),
        {"sources": [source for source, _ in names], "ids": [id_ for _, id_ in names]},
    ).all()
    existing = {(row.source, row.source_asset_id) for row in rows}
    if missing := [
        f"There is no listing {id_!r} of {source}." for source, id_ in names if (source, id_) not in existing
    ]:
        raise DecisionRefused("unknown_listing", " ".join(missing[:3]), missing)
    return list(rows)


def describe_listing(row: Row[Any]) -> str:
    return f"{row.source_asset_id!r} of {row.source}"
