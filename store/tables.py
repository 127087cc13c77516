"""Declare the tables; `store/migrations` builds the same tables in a live database.

docs/explanation/architecture.md#the-tables gives the reason for each table.
"""

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

# Each status, its meaning, and the statuses that can follow.
RUN_STATUSES = (
    "queued",  # requested, between two slices, or requeued by the reconciler → running, cancelled
    "running",  # a worker has claimed it → queued, waiting, succeeded, partial, failed, cancelled
    "waiting",  # cannot continue before next_attempt_at, for waiting_reason → running, cancelled
    "succeeded",  # final: every item became a quote
    "partial",  # final: finished, but some items are rejects
    "failed",  # final: gave up for error_code; committed pages stay
    "cancelled",  # final: cancelled on request; committed pages stay
)
DRIFT_KINDS = ("new", "vanished", "renamed", "retyped")
REJECT_STATES = (
    "quarantined",  # the mapping rejects the item
    "replayed",  # a replay read the body again, and the mapping accepted the item
)
UNFINISHED = ("queued", "running", "waiting")
UNJUDGED = "judged_at IS NULL AND kind = 'live' AND status IN ('succeeded', 'partial', 'failed')"

SYMBOL_KEY = r"left(regexp_replace(lower(symbol), '\W|_', '', 'g'), 10)"
"""The SQL expression of a listing's symbol key. For ASCII symbols it equals the key of tasks/identity/similarity.py."""


def _in_list(column: str, values: tuple[str, ...]) -> str:
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
    """The state of a source, as far as code does not declare it."""

    __tablename__ = "sources"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_until: Mapped[datetime | None]
    paused_reason: Mapped[str | None]
    # Number of upstream calls in the UTC month that starts on budget_month.
    budget_month: Mapped[date | None]
    budget_used: Mapped[int] = mapped_column(server_default="0")
    # The circuit breaker (tasks/upstream/circuit_breaker.py): consecutive failures; when it opened; until when one
    # worker alone may send the trial request.
    breaker_failures: Mapped[int] = mapped_column(server_default="0")
    breaker_opened_at: Mapped[datetime | None]
    breaker_probe_until: Mapped[datetime | None]
    # The newest slot that got a run or was skipped. Catching up after an outage starts after it.
    last_slot: Mapped[datetime | None]
    # Rows that retention has deleted so far (tasks/archive/retention.py), counted in the same transactions. The columns
    # keep their first names, so that workers of the version before can still count in them during an upgrade. With
    # `key`, the rows of Core queries have the new names, too.
    quotes_deleted: Mapped[int] = mapped_column("quotes_dropped", BigInteger, key="quotes_deleted", server_default="0")
    bodies_deleted: Mapped[int] = mapped_column("bodies_dropped", BigInteger, key="bodies_deleted", server_default="0")


class RunRow(Base):
    """One ingestion of one source, from its request to its end. The id is also the Celery task id."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(_in_list("kind", RUN_KINDS), name="kind"),
        CheckConstraint(_in_list("status", RUN_STATUSES), name="status"),
        UniqueConstraint("source", "scheduled_for"),
        Index(
            "runs_one_of_a_kind_per_source",
            "source",
            "kind",
            unique=True,
            postgresql_where=text(f"kind IN ('live', 'replay') AND {_in_list('status', UNFINISHED)}"),
        ),
        Index("runs_unfinished", "status", postgresql_where=text(_in_list("status", UNFINISHED))),
        Index(None, "requested_at", "id"),
        Index(None, "source", "requested_at"),
        Index("runs_unjudged", "finished_at", postgresql_where=text(UNJUDGED)),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("sources.name"))
    kind: Mapped[str]
    status: Mapped[str]
    # A live run can have full_refresh: start without a cursor. A replay has its choice of pages
    # (tasks/archive/stored_pages.py).
    parameters: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    scheduled_for: Mapped[datetime | None]
    requested_by: Mapped[str]
    requested_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    request_id: Mapped[str | None]
    traceparent: Mapped[str | None]
    # Number of slices that started. A slice may change its run only while it holds the newest claim.
    claims: Mapped[int] = mapped_column(server_default="0")
    claimed_at: Mapped[datetime | None]
    # Starts and waits since the last committed page. Slices that ended cleanly do not count.
    attempts: Mapped[int] = mapped_column(server_default="0")
    waits: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime | None]
    waiting_reason: Mapped[str | None]
    published_at: Mapped[datetime | None]
    # Number of publications since the last claim. Each one doubles the time until the next.
    publish_count: Mapped[int] = mapped_column(server_default="0")
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    # The run's measured figures, and when they were compared with earlier runs (tasks/anomalies/judge.py).
    figures: Mapped[dict[str, Any] | None]
    judged_at: Mapped[datetime | None]


class CheckpointRow(Base):
    """Where the next fetch of a partition starts, and which slice may advance it."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index(None, "lease_run"),)

    source: Mapped[str] = mapped_column(ForeignKey("sources.name"), primary_key=True)
    partition: Mapped[str] = mapped_column(primary_key=True)
    cursor: Mapped[dict[str, Any] | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_run: Mapped[uuid.UUID | None]
    # The slice that holds the lease, directly or through an assistant: the value of runs.claims at that time.
    lease_claim: Mapped[int | None]
    # The fencing token. Each new lease increases it, and the holder of an older token can no longer write.
    lease_token: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_expires: Mapped[datetime | None]
    # The last run that read the partition to its end.
    done_by: Mapped[uuid.UUID | None]
    # The last run that could not read the partition, when, and why: {"code", "detail", "pause"}. If done_by is the same
    # run, it gave the partition up.
    failed_by: Mapped[uuid.UUID | None]
    failed_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class ValidatorRow(Base):
    """The validators of an upstream's last response to a request, for conditional requests.

    They are committed with their page, so that they never describe a page that is not loaded. request is the sha256 of
    the request. mapping is the fingerprint of the code that read the body. Changed code reads the body again.
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
    """A body exactly as received, compressed with zstd, stored once per digest (sha256 of the uncompressed body).

    Retention sets the body to null and keeps the row, as a record that it was received.
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
    """One body received by one run: its request, its cursor, and the number of items by outcome."""

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
    # The column is named `bytes`. An attribute of that name would hide the type that other columns use.
    bytes_: Mapped[int] = mapped_column("bytes", BigInteger)
    # The earliest and the latest time of the page's quotes; null without quotes.
    observed_from: Mapped[datetime | None]
    observed_until: Mapped[datetime | None]
    # The listings of the page's quotes; null if there are too many (tasks/pipeline/load.py).
    listings: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    # For each field of a quote, the number of the page's quotes in which it is not null.
    filled: Mapped[dict[str, Any] | None]


class RejectRow(Base):
    """An item that could not become a quote. The same item of the same body is one reject, even if received again."""

    __tablename__ = "rejects"
    __table_args__ = (
        CheckConstraint(_in_list("state", REJECT_STATES), name="state"),
        Index(None, "rejected_at", "source", "digest", "item_index"),
        Index(None, "reasons", postgresql_using="gin", postgresql_ops={"reasons": "jsonb_path_ops"}),
    )

    source: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    item_index: Mapped[int] = mapped_column(primary_key=True)
    # Text, since jsonb can hold neither NUL nor NaN, and items with those are rejects.
    item: Mapped[str]
    # [{"field", "code", "detail"}, …]
    reasons: Mapped[list[Any]]
    state: Mapped[str] = mapped_column(server_default="quarantined")
    rejected_at: Mapped[datetime]
    replayed_at: Mapped[datetime | None]


class ProfileRow(Base):
    """The fields of a source's items in one format, with types and null counts. The newest version is current."""

    __tablename__ = "shapes"

    source: Mapped[str] = mapped_column(ForeignKey("sources.name"), primary_key=True)
    format: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    items: Mapped[int] = mapped_column(BigInteger)
    # By field, as written by tasks/drift/profile.py.
    fields: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class DriftChangeRow(Base):
    """One change of a source's schema. It is pending until a person or the drift policy accepts it."""

    __tablename__ = "drift"
    __table_args__ = (
        CheckConstraint(_in_list("kind", DRIFT_KINDS), name="kind"),
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
    # The version of the profile that the change was found against.
    version: Mapped[int]
    kind: Mapped[str]
    field: Mapped[str]
    # The field's old type; its new type, or for a renamed field its new name.
    was: Mapped[str | None]
    became: Mapped[str | None]
    confidence: Mapped[Decimal | None]
    policy: Mapped[str]
    # The profile of the field that appeared, for a new or a renamed field.
    new_field: Mapped[dict[str, Any] | None]
    run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    last_run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    pages: Mapped[int] = mapped_column(server_default="1")
    seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    last_seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    accepted_at: Mapped[datetime | None]
    accepted_by: Mapped[str | None]


class AnomalyRow(Base):
    """An unusual run, or a source that is late. over_at is set when the anomaly ends."""

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
    # The field or the listing, if the anomaly concerns one.
    subject: Mapped[str | None]
    value: Mapped[Decimal | None]
    expected: Mapped[Decimal | None]
    detail: Mapped[str]
    found_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    over_at: Mapped[datetime | None]


class AssetRow(Base):
    """The real thing that listings of several sources describe."""

    __tablename__ = "assets"
    __table_args__ = (Index("assets_upper_symbol_idx", text("upper(symbol)")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    symbol: Mapped[str]
    name: Mapped[str]
    # The asset that received this asset's last listing. The slug leads there until this asset has a listing again.
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

    # A four-byte integer, since every quote and every index entry repeats it.
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("sources.name"))
    source_asset_id: Mapped[str]
    quote_currency: Mapped[str]
    symbol: Mapped[str]
    name: Mapped[str]
    asset: Mapped[int] = mapped_column(ForeignKey("assets.id"))
    # The newest decision: how the listing was assigned to the asset, and the confidence from 0 to 1.
    method: Mapped[str]
    confidence: Mapped[Decimal]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class DecisionRow(Base):
    """One assignment of a listing to an asset. Rows never change: a new decision is a new row."""

    __tablename__ = "decisions"
    __table_args__ = (Index(None, "listing", "id"), Index(None, "change"))

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # Decisions with the same change are undone together. Null for decisions made while a page was loaded.
    change: Mapped[uuid.UUID | None]
    listing: Mapped[int] = mapped_column(ForeignKey("listings.id"))
    asset: Mapped[int] = mapped_column(BigInteger, ForeignKey("assets.id"))
    method: Mapped[str]
    confidence: Mapped[Decimal]
    # The evidence: similar names, prices, or the decision that this one undoes.
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    decided_by: Mapped[str]
    reason: Mapped[str | None]
    decided_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class CandidateRow(Base):
    """Two assets that may be one, with too little evidence, or with evidence against it. Rebuilt at each rematch."""

    __tablename__ = "candidates"

    one: Mapped[int] = mapped_column(BigInteger, ForeignKey("assets.id"), primary_key=True)
    other: Mapped[int] = mapped_column(BigInteger, ForeignKey("assets.id"), primary_key=True)
    evidence: Mapped[dict[str, Any]]
    found_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class QuoteRow(Base):
    """The value of one listing at one instant.

    No foreign keys, since each would cost a trigger per row and block retention. A test checks the references instead.
    """

    __tablename__ = "quotes"
    __table_args__ = (
        # Ascending; a backward scan gives newest first. With one DESC column, the other order would need a sort.
        Index(None, "observed_at", "listing_id"),
        Index(None, "ingested_at", postgresql_using="brin"),
    )

    listing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    observed_at: Mapped[datetime] = mapped_column(primary_key=True)
    # NUMERIC without a scale, since real data has prices of 3e-9 and supplies of 4e17.
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
    # The start of the writing transaction. The parameter ingested_until of /data relies on that.
    ingested_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    run: Mapped[uuid.UUID]


class LatestQuoteRow(Base):
    """The time of a listing's newest quote, updated in the transaction that loads the quote."""

    __tablename__ = "latest_quotes"

    listing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    observed_at: Mapped[datetime]


class RevisionRow(Base):
    """The number of statements that changed assets or listings, or deleted quotes; triggers count them.

    Loading quotes is not counted here, since each committed page increases the version of its checkpoint.
    """

    __tablename__ = "revisions"

    part: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class IdempotencyKeyRow(Base):
    """The response of `POST /runs` to a request with an Idempotency-Key."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "expires_at"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    answer: Mapped[list[Any]]
    expires_at: Mapped[datetime]


class HeartbeatRow(Base):
    """When a part of the service last proved that it works: beat by a tick, a worker by consuming a canary."""

    __tablename__ = "heartbeats"

    part: Mapped[str] = mapped_column(primary_key=True)
    beaten_at: Mapped[datetime]
