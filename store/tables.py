"""The tables. docs/design.md says why each is as it is; `store/migrations` builds the same in a live database."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

RUN_KINDS = ("live", "backfill", "replay")

# What each status stands for, and how a run comes to it and leaves it.
RUN_STATUSES = (
    "queued",  # asked for, or between two slices, or put back by the reconciler → running, cancelled
    "running",  # a worker has claimed it → queued, waiting, succeeded, partial, failed, cancelled
    "waiting",  # cannot go on before next_attempt_at, says waiting_reason → running, cancelled
    "succeeded",  # end: every item became a quote
    "partial",  # end: finished, some items are rejects
    "failed",  # end: gave up, error_code says why; what was committed before stays
    "cancelled",  # end: somebody asked for it; what was committed before stays
)
DRIFT_KINDS = ("new", "vanished", "renamed", "retyped")
REJECT_STATES = (
    "quarantined",  # the mapping refuses it
    "replayed",  # its body was read again, and the mapping of then took it
)
UNFINISHED = ("queued", "running", "waiting")
UNJUDGED = "judged_at IS NULL AND kind = 'live' AND status IN ('succeeded', 'partial', 'failed')"

SYMBOL_KEY = r"left(regexp_replace(lower(symbol), '\W|_', '', 'g'), 10)"
"""Of listings; what tasks/identity/similarity.py has as a symbol's key, where it is plain ASCII."""


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text,
        datetime: DateTime(timezone=True),
        Decimal: Numeric,
        bytes: LargeBinary,
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }


class SourceRow(Base):
    """What is known of a source beyond what code declares."""

    __tablename__ = "sources"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_until: Mapped[datetime | None]
    paused_reason: Mapped[str | None]
    # Calls made in the month (UTC) that starts on budget_month.
    budget_month: Mapped[date | None]
    budget_used: Mapped[int] = mapped_column(server_default="0")
    # The circuit breaker (tasks/upstream/circuit_breaker.py): consecutive failures, when it opened, and until when the
    # worker that sends the trial request keeps the others out.
    breaker_failures: Mapped[int] = mapped_column(server_default="0")
    breaker_opened_at: Mapped[datetime | None]
    breaker_probe_until: Mapped[datetime | None]
    # The newest slot that a run was asked for, or that was let go: catching up after an outage starts behind it.
    last_slot: Mapped[datetime | None]
    # What retention has dropped of it so far (tasks/archive/retention.py), counted in the transactions that drop it.
    quotes_dropped: Mapped[int] = mapped_column(BigInteger, server_default="0")
    bodies_dropped: Mapped[int] = mapped_column(BigInteger, server_default="0")


class RunRow(Base):
    """One ingestion of one source, from request to end. Its id is the Celery task id."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(_one_of("kind", RUN_KINDS), name="kind"),
        CheckConstraint(_one_of("status", RUN_STATUSES), name="status"),
        UniqueConstraint("source", "scheduled_for"),
        Index(
            "runs_one_of_a_kind_per_source",
            "source",
            "kind",
            unique=True,
            postgresql_where=text(f"kind IN ('live', 'replay') AND {_one_of('status', UNFINISHED)}"),
        ),
        Index("runs_unfinished", "status", postgresql_where=text(_one_of("status", UNFINISHED))),
        Index(None, "requested_at", "id"),
        Index(None, "source", "requested_at"),
        Index("runs_unjudged", "finished_at", postgresql_where=text(UNJUDGED)),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("sources.name"))
    kind: Mapped[str]
    status: Mapped[str]
    # Of a live run full_refresh: start from no cursor. Of a replay which pages (tasks/archive/stored_pages.py).
    parameters: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    scheduled_for: Mapped[datetime | None]
    requested_by: Mapped[str]
    requested_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    request_id: Mapped[str | None]
    traceparent: Mapped[str | None]
    # claims counts the slices that started; a slice may move its run only while it holds the newest claim.
    claims: Mapped[int] = mapped_column(server_default="0")
    claimed_at: Mapped[datetime | None]
    # Starts, and waits, since the last committed page. Clean ends of a slice are not counted.
    attempts: Mapped[int] = mapped_column(server_default="0")
    waits: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime | None]
    waiting_reason: Mapped[str | None]
    published_at: Mapped[datetime | None]
    # Publications since the last claim: the gap to the next one doubles with it.
    publish_count: Mapped[int] = mapped_column(server_default="0")
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    # What was measured of it, and since when it is held against the runs before it (tasks/anomalies/judge.py).
    figures: Mapped[dict[str, Any] | None]
    judged_at: Mapped[datetime | None]


class CheckpointRow(Base):
    """Where the next fetch of a partition starts, and which slice may move it."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index(None, "lease_run"),)

    source: Mapped[str] = mapped_column(ForeignKey("sources.name"), primary_key=True)
    partition: Mapped[str] = mapped_column(primary_key=True)
    cursor: Mapped[dict[str, Any] | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_run: Mapped[uuid.UUID | None]
    # The slice of that run whose lease it is, its own or an assistant's: runs.claims as it was then.
    lease_claim: Mapped[int | None]
    # Rises with every lease taken: whoever holds an older one may no longer write.
    lease_token: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_expires: Mapped[datetime | None]
    # The last run that has been through all there was of the partition.
    done_by: Mapped[uuid.UUID | None]
    # The last run that could not read it, when and why: {"code", "detail", "pause"}. With done_by, it gave it up.
    failed_by: Mapped[uuid.UUID | None]
    failed_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class ValidatorRow(Base):
    """What an upstream last answered to a request: moved with the page, so that it never speaks of one that is not in.

    request is the sha256 of what was asked. mapping tells the code that read the body: another may see more in it.
    """

    __tablename__ = "validators"

    source: Mapped[str] = mapped_column(ForeignKey("sources.name"), primary_key=True)
    partition: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[bytes] = mapped_column(primary_key=True)
    etag: Mapped[str | None]
    last_modified: Mapped[str | None]
    digest: Mapped[bytes]
    mapping: Mapped[bytes]


class RawBodyRow(Base):
    """A body exactly as received, compressed with zstd, kept once per digest (sha256 of the uncompressed body).

    Where retention has dropped the body, it is null: that it was received stays on record.
    """

    __tablename__ = "raw_bodies"
    __table_args__ = (Index("raw_bodies_kept", "source", "received_at", postgresql_where=text("body IS NOT NULL")),)

    source: Mapped[str] = mapped_column(ForeignKey("sources.name"), primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    body: Mapped[bytes | None]
    content_type: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]


class PageRow(Base):
    """One body received by one run: its request, its cursor, and what became of its items."""

    __tablename__ = "pages"
    __table_args__ = (
        ForeignKeyConstraint(["source", "body_digest"], ["raw_bodies.source", "raw_bodies.digest"]),
        CheckConstraint("fetched = inserted + updated + unchanged + deduplicated + rejected", name="conservation"),
        Index(None, "source", "body_digest", "fetched_at"),
        Index(None, "source", "committed_at"),
        Index(None, "committed_at"),
    )

    run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    partition: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str]
    request: Mapped[dict[str, Any]]
    status: Mapped[int]
    fetched_at: Mapped[datetime]
    committed_at: Mapped[datetime]
    body_digest: Mapped[bytes]
    cursor: Mapped[dict[str, Any] | None]
    fetched: Mapped[int]
    inserted: Mapped[int]
    updated: Mapped[int]
    unchanged: Mapped[int]
    deduplicated: Mapped[int]
    rejected: Mapped[int]
    blank: Mapped[int]
    # Named so in the table; as an attribute it would hide the type from the columns above.
    bytes_: Mapped[int] = mapped_column("bytes", BigInteger)
    # The first and the last time of its quotes; null where it has none.
    observed_from: Mapped[datetime | None]
    observed_until: Mapped[datetime | None]
    # What its quotes are of; null where those are many (tasks/pipeline/load.py).
    listings: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    # By value how many of its quotes have it.
    filled: Mapped[dict[str, Any] | None]


class RejectRow(Base):
    """An item that could not become a quote. The same item of the same body is one reject, however often it comes."""

    __tablename__ = "rejects"
    __table_args__ = (
        CheckConstraint(_one_of("state", REJECT_STATES), name="state"),
        Index(None, "rejected_at", "source", "digest", "item_index"),
        Index(None, "reasons", postgresql_using="gin", postgresql_ops={"reasons": "jsonb_path_ops"}),
    )

    source: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    item_index: Mapped[int] = mapped_column(primary_key=True)
    # Text: jsonb can hold neither NUL nor NaN, and rejects are where those end.
    item: Mapped[str]
    # [{"field", "code", "detail"}, …]
    reasons: Mapped[list[Any]]
    state: Mapped[str] = mapped_column(server_default="quarantined")
    rejected_at: Mapped[datetime]
    replayed_at: Mapped[datetime | None]


class ProfileRow(Base):
    """What fields a source's items have in one of its formats, of which types, how often null; the newest today's."""

    __tablename__ = "shapes"

    source: Mapped[str] = mapped_column(ForeignKey("sources.name"), primary_key=True)
    format: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    items: Mapped[int] = mapped_column(BigInteger)
    # By field as tasks/drift/profile.py tells it.
    fields: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class DriftChangeRow(Base):
    """One change of a source's schema. It waits until somebody accepts it, or was accepted by its policy."""

    __tablename__ = "drift"
    __table_args__ = (
        CheckConstraint(_one_of("kind", DRIFT_KINDS), name="kind"),
        Index(None, "source", "id"),
        Index(
            "drift_waiting",
            "source",
            "format",
            "kind",
            "field",
            text("coalesce(became, '')"),
            unique=True,
            postgresql_where=text("accepted_at IS NULL"),
        ),
        Index(
            "drift_evolved",
            "source",
            "format",
            "version",
            "kind",
            "field",
            text("coalesce(became, '')"),
            unique=True,
            postgresql_where=text("accepted_by = 'policy'"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("sources.name"))
    format: Mapped[str]
    # That the change was held against.
    version: Mapped[int]
    kind: Mapped[str]
    field: Mapped[str]
    # The type that it had; the type or, of one that was renamed, the name that it has now.
    was: Mapped[str | None]
    became: Mapped[str | None]
    confidence: Mapped[Decimal | None]
    policy: Mapped[str]
    # Of a field that was not there before, what is known of it.
    new_field: Mapped[dict[str, Any] | None]
    run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    last_run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    pages: Mapped[int] = mapped_column(server_default="1")
    seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    last_seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    accepted_at: Mapped[datetime | None]
    accepted_by: Mapped[str | None]


class AnomalyRow(Base):
    """Something out of the ordinary: of a run, or of a source that has fallen behind, until it is over."""

    __tablename__ = "anomalies"
    __table_args__ = (
        Index(None, "run"),
        Index(None, "source", "id"),
        Index(
            "anomalies_late",
            "source",
            unique=True,
            postgresql_where=text("kind = 'late' AND over_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("sources.name"))
    run: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id"))
    kind: Mapped[str]
    # The field or the listing, where it is of one.
    subject: Mapped[str | None]
    value: Mapped[Decimal | None]
    expected: Mapped[Decimal | None]
    detail: Mapped[str]
    found_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    over_at: Mapped[datetime | None]


class AssetRow(Base):
    """The real thing that listings of several sources speak of."""

    __tablename__ = "assets"
    __table_args__ = (Index("assets_upper_symbol_idx", text("upper(symbol)")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    symbol: Mapped[str]
    name: Mapped[str]
    # Where its last listing went. Its slug stands for that one from then on, until it has a listing again.
    merged_into: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("assets.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class ListingRow(Base):
    """One asset as one source lists it, in one quote currency."""

    __tablename__ = "listings"
    __table_args__ = (
        UniqueConstraint("source", "source_asset_id", "quote_currency"),
        Index("listings_upper_symbol_idx", text("upper(symbol)")),
        Index("listings_symbol_key_idx", text(SYMBOL_KEY)),
        Index(None, "asset"),
    )

    # A plain integer, four bytes on every quote and every index entry.
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("sources.name"))
    source_asset_id: Mapped[str]
    quote_currency: Mapped[str]
    symbol: Mapped[str]
    name: Mapped[str]
    asset: Mapped[int] = mapped_column(ForeignKey("assets.id"))
    # How it was decided that this listing is of this asset, and how surely, 0 to 1: its newest decision.
    method: Mapped[str]
    confidence: Mapped[Decimal]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class DecisionRow(Base):
    """That a listing is of an asset, as it was decided once. Never changed: what is decided anew is another row."""

    __tablename__ = "decisions"
    __table_args__ = (Index(None, "listing", "id"), Index(None, "change"))

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # What was decided together is undone together; null for what a source's page brought in.
    change: Mapped[uuid.UUID | None]
    listing: Mapped[int] = mapped_column(ForeignKey("listings.id"))
    asset: Mapped[int] = mapped_column(BigInteger, ForeignKey("assets.id"))
    method: Mapped[str]
    confidence: Mapped[Decimal]
    # What spoke for it: the names that are alike, the prices, the decision that it undoes.
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    decided_by: Mapped[str]
    reason: Mapped[str | None]
    decided_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class CandidateRow(Base):
    """Two assets that may be one: too little speaks for it, or something against it. Found anew every few minutes."""

    __tablename__ = "candidates"

    one: Mapped[int] = mapped_column(BigInteger, ForeignKey("assets.id"), primary_key=True)
    other: Mapped[int] = mapped_column(BigInteger, ForeignKey("assets.id"), primary_key=True)
    evidence: Mapped[dict[str, Any]]
    found_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class QuoteRow(Base):
    """What one listing was worth at one instant.

    No foreign keys: each would be a trigger per row, and block retention. A test proves them by a query.
    """

    __tablename__ = "quotes"
    __table_args__ = (
        # Ascending, read backwards for newest first; one DESC column would force a sort for the other order.
        Index(None, "observed_at", "listing_id"),
        Index(None, "ingested_at", postgresql_using="brin"),
    )

    listing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    observed_at: Mapped[datetime] = mapped_column(primary_key=True)
    # Numeric without a scale: real data has prices of 3e-9 and supplies of 4e17.
    price: Mapped[Decimal]
    open: Mapped[Decimal | None]
    high: Mapped[Decimal | None]
    low: Mapped[Decimal | None]
    volume_24h: Mapped[Decimal | None]
    market_cap: Mapped[Decimal | None]
    change_24h_pct: Mapped[Decimal | None]
    rank: Mapped[int | None]
    circulating_supply: Mapped[Decimal | None]
    total_supply: Mapped[Decimal | None]
    max_supply: Mapped[Decimal | None]
    fetched_at: Mapped[datetime]
    # The start of the transaction that wrote it: /data's ingested_until rests on that.
    ingested_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    run: Mapped[uuid.UUID]


class LatestQuoteRow(Base):
    """Which quote of a listing is the newest, moved in the transaction that loads it."""

    __tablename__ = "latest_quotes"

    listing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    observed_at: Mapped[datetime]


class RevisionRow(Base):
    """How often assets, listings, or the quotes that are gone changed: triggers count each statement.

    Where pages are committed, their checkpoints' versions tell it; nothing counts as rows of `quotes` come in.
    """

    __tablename__ = "revisions"

    part: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class IdempotencyKeyRow(Base):
    """What `POST /runs` answered to an Idempotency-Key."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "expires_at"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    answer: Mapped[list[Any]]
    expires_at: Mapped[datetime]


class HeartbeatRow(Base):
    """When a part of the service last showed that it works: beat by a tick, a worker by a canary it consumed."""

    __tablename__ = "heartbeats"

    part: Mapped[str] = mapped_column(primary_key=True)
    beaten_at: Mapped[datetime]
