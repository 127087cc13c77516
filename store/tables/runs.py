"""Declare the tables of sources, runs and checkpoints, and of the state of the service."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Identity,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, in_list

RUN_KINDS = ("live", "backfill", "replay")

# Each status, its meaning, and the statuses that can follow.
RUN_STATUSES = (
    "queued",  # requested, between two slices, or requeued by the reconciler → running, cancelled
    "running",  # a worker has claimed it → queued, waiting, succeeded, partial, failed, cancelled
    "waiting",  # cannot continue before next_attempt_at; waiting_reason says why → running, cancelled
    "succeeded",  # final: everything was loaded, except items without a price
    "partial",  # final: finished, but some items were rejected for other reasons
    "failed",  # final: failed with error_code; committed pages stay
    "cancelled",  # final: cancelled on request; committed pages stay
)
UNFINISHED = ("queued", "running", "waiting")
UNJUDGED = "judged_at IS NULL AND kind = 'live' AND status IN ('succeeded', 'partial', 'failed')"


class SourceRow(Base):
    """The state of a source. Everything else about the source is declared in code."""

    __tablename__ = "sources"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_until: Mapped[datetime | None]
    paused_reason: Mapped[str | None]
    # A salted fingerprint of the key, plan, URL and contact that the upstream refused. Others lift the pause. Null: the
    # pause has another cause.
    paused_configuration: Mapped[bytes | None]
    # Number of upstream calls in the UTC month that starts on budget_month.
    budget_month: Mapped[date | None]
    budget_used: Mapped[int] = mapped_column(server_default="0")
    # The circuit breaker (tasks/upstream/circuit_breaker.py): the number of consecutive failures, the time when it
    # opened, and the time until which only one worker may send the trial request.
    breaker_failures: Mapped[int] = mapped_column(server_default="0")
    breaker_opened_at: Mapped[datetime | None]
    breaker_probe_until: Mapped[datetime | None]
    # The newest slot that got a run or was skipped. After an outage, catching up starts at the next slot.
    last_slot: Mapped[datetime | None]
    # Rows that retention (tasks/archive/retention.py) and full refreshes (tasks/retraction) have deleted so far, and
    # counted in the same transactions. The columns keep their first names, so that workers of the previous version can
    # still update them during an upgrade. With `key`, the rows of Core queries have the new names, too.
    quotes_deleted: Mapped[int] = mapped_column("quotes_dropped", BigInteger, key="quotes_deleted", server_default="0")
    bodies_deleted: Mapped[int] = mapped_column("bodies_dropped", BigInteger, key="bodies_deleted", server_default="0")


class RunRow(Base):
    """One ingestion of one source, from its request to its end. The id is also the Celery task id."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(in_list("kind", RUN_KINDS), name="kind"),
        CheckConstraint(in_list("status", RUN_STATUSES), name="status"),
        UniqueConstraint("source", "scheduled_for"),
        Index(
            "runs_one_of_a_kind_per_source",
            "source",
            "kind",
            unique=True,
            postgresql_where=text(
                f"kind IN ('live', 'replay') AND {in_list('status', UNFINISHED)} AND after_run IS NULL"
            ),
        ),
        Index(
            "runs_one_successor",
            "after_run",
            unique=True,
            postgresql_where=text(f"after_run IS NOT NULL AND {in_list('status', UNFINISHED)}"),
        ),
        Index("runs_unfinished", "status", postgresql_where=text(in_list("status", UNFINISHED))),
        Index(None, "requested_at", "id"),
        Index(None, "source", "requested_at"),
        Index("runs_unjudged", "finished_at", postgresql_where=text(UNJUDGED)),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("sources.name"))
    kind: Mapped[str]
    status: Mapped[str]
    # For a live run, full_refresh: start without a cursor; dry_run and max_retracted limit its retraction. For a
    # replay, the selection of pages (tasks/archive/stored_pages.py).
    parameters: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    scheduled_for: Mapped[datetime | None]
    # The run that must end before this one starts.
    after_run: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id"))
    requested_by: Mapped[str]
    requested_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))
    request_id: Mapped[str | None]
    traceparent: Mapped[str | None]
    # Number of slices that started. A slice may change its run only while it holds the newest claim.
    claims: Mapped[int] = mapped_column(server_default="0")
    # A random id of the newest claim. A database that lost a claim can count to the same number again.
    claim_token: Mapped[uuid.UUID | None]
    claimed_at: Mapped[datetime | None]
    # Starts and waits since the last committed page. Slices that ended cleanly do not count.
    attempts: Mapped[int] = mapped_column(server_default="0")
    waits: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime | None]
    waiting_reason: Mapped[str | None]
    published_at: Mapped[datetime | None]
    # Number of publications since the last claim. While the queue has messages, each doubles the time until the next.
    publish_count: Mapped[int] = mapped_column(server_default="0")
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    # Why a run failed, or is partial. Null for a run that is partial only because of some rejects.
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    # The retraction of missing quotes by a full refresh (tasks/retraction/state.py); null for other runs.
    retraction: Mapped[dict[str, Any] | None]
    # The run's measured figures, and when they were compared with earlier runs (tasks/anomalies/judge.py).
    figures: Mapped[dict[str, Any] | None]
    judged_at: Mapped[datetime | None]


class CheckpointRow(Base):
    """The position where the next fetch of a partition starts, and the slice that may advance it."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index(None, "lease_run"),)

    source: Mapped[str] = mapped_column(ForeignKey("sources.name"), primary_key=True)
    partition: Mapped[str] = mapped_column(primary_key=True)
    cursor: Mapped[dict[str, Any] | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_run: Mapped[uuid.UUID | None]
    # The value of runs.claims of the slice that holds the lease, directly or through an assistant.
    lease_claim: Mapped[int | None]
    # The fencing token. Each new lease increases it, and the holder of an older token can no longer write. Tokens and
    # versions grow by random steps, so that a database that lost commits does not repeat their numbers.
    lease_token: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_expires: Mapped[datetime | None]
    # Why the newest content is not loaded: {"run", "code", "items", "loaded"}; null if it is.
    verdict: Mapped[dict[str, Any] | None]
    # When a live run first missed the partition; null while it exists.
    missing_since: Mapped[datetime | None]
    # The last run that read the partition to its end.
    done_by: Mapped[uuid.UUID | None]
    # The last run that could not read the partition, the time, and the error: {"code", "detail", "pause"}. If done_by
    # is the same run, that run gave up on the partition.
    failed_by: Mapped[uuid.UUID | None]
    failed_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))


class IdempotencyKeyRow(Base):
    """The response of `POST /runs` to a request with an Idempotency-Key."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "expires_at"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    response: Mapped[list[Any]] = mapped_column("answer", key="response")
    expires_at: Mapped[datetime]


class TimelineRow(Base):
    """One history of the database, in which each commit follows all earlier ones. The newest row is current.

    A new row begins when the database was set back: it lost commits, or may have lost them in a failover.
    """

    __tablename__ = "timelines"

    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # A random id, since a database that lost a row can reuse its number.
    token: Mapped[uuid.UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    # The server and the position where the history began; null if the database role may not read these values.
    system_identifier: Mapped[str | None]
    timeline: Mapped[int | None]
    lsn: Mapped[str | None]
    # Random increasing numbers of the last sweeps of the control worker (tasks/set_backs/history.py).
    sweeps: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")
    began_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))
    # How the set-back was detected; null in the first row.
    reason: Mapped[str | None]


class IntegrityRow(Base):
    """The position of a check of the stored data, and its last complete result (tasks/integrity)."""

    __tablename__ = "integrity"

    name: Mapped[str] = mapped_column(primary_key=True)
    # The last checked key of the current pass, with its violations so far and one of them.
    position: Mapped[str | None]
    found: Mapped[int] = mapped_column(BigInteger, server_default="0")
    example: Mapped[str | None]
    # The number of violations of the last complete pass, one of them, and the end of the pass.
    violations: Mapped[int | None] = mapped_column(BigInteger)
    last_example: Mapped[str | None]
    completed_at: Mapped[datetime | None]


class HeartbeatRow(Base):
    """The last heartbeat of a component. Beat records one at each tick, and a worker when it consumes a canary."""

    __tablename__ = "heartbeats"

    part: Mapped[str] = mapped_column(primary_key=True)
    beaten_at: Mapped[datetime]


class ClockRow(Base):
    """How far the service's clock is ahead of the database's clock. There is no row until the first correction.

    `service_time()` reads it: the database's time, plus `ahead` seconds, minus a tenth of the time since `since`.
    Without this table, the times that the service stores would go back with the database's clock.
    """

    __tablename__ = "clock"
    __table_args__ = (CheckConstraint("single", name="single"),)

    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    ahead: Mapped[float] = mapped_column(Double)
    # The database's time of the last correction.
    since: Mapped[datetime]
