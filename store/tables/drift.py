"""Declare the tables of field profiles, their changes, and anomalies."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, in_list

DRIFT_KINDS = ("new", "vanished", "renamed", "retyped")


class ProfileRow(Base):
    """The fields of a source's items in one format, with types and null counts. The newest version is current."""

    __tablename__ = "shapes"

    source: Mapped[str] = mapped_column(ForeignKey("sources.name"), primary_key=True)
    format: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    items: Mapped[int] = mapped_column(BigInteger)
    # The profile of each field, by its path, in the format of tasks/drift/profile.py.
    fields: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))


class DriftChangeRow(Base):
    """One change of a source's fields. It is pending until a person or the drift policy accepts it."""

    __tablename__ = "drift"
    __table_args__ = (
        CheckConstraint(in_list("kind", DRIFT_KINDS), name="kind"),
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
    # The version of the profile that the page was compared with.
    version: Mapped[int]
    kind: Mapped[str]
    field: Mapped[str]
    # The field's old type, and its new type. For a renamed field, `became` is its new name.
    was: Mapped[str | None]
    became: Mapped[str | None]
    confidence: Mapped[Decimal | None]
    policy: Mapped[str]
    # The profile of the new field, if the change is `new` or `renamed`.
    new_field: Mapped[dict[str, Any] | None]
    run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    last_run: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id"))
    pages: Mapped[int] = mapped_column(server_default="1")
    seen_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))
    last_seen_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))
    accepted_at: Mapped[datetime | None]
    accepted_by: Mapped[str | None]


class AnomalyRow(Base):
    """Something unusual about a run, a source or an asset. over_at is set when the anomaly ends."""

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
        Index("anomalies_set_back", "source", postgresql_where=text("kind = 'set_back' AND over_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    source: Mapped[str] = mapped_column(ForeignKey("sources.name"))
    run: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id"))
    kind: Mapped[str]
    # The affected field, listing or asset; null if the whole run or source is affected.
    subject: Mapped[str | None]
    value: Mapped[Decimal | None]
    expected: Mapped[Decimal | None]
    detail: Mapped[str]
    found_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))
    over_at: Mapped[datetime | None]
