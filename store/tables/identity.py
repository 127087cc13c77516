"""Declare the tables of assets and listings, and of the decisions that assign listings to assets."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    Identity,
    Index,
    UniqueConstraint,
    collate,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base

CASE_COLLATION = "pg_c_utf8"
"""The collation of Postgres for upper and lower case. In the locale of a database, `I` may have another lower case."""

SYMBOL_KEY = rf"left(regexp_replace(lower(symbol COLLATE {CASE_COLLATION}), '\W|_', '', 'g'), 10)"
"""The SQL expression of a listing's symbol key. For ASCII symbols it equals the key of tasks/identity/similarity.py."""


_UPPER_SYMBOL = f"upper(symbol COLLATE {CASE_COLLATION})"


def upper_case(value: Any) -> ColumnElement[str]:
    """Return the SQL of a text in upper case. The indexes of symbols use the same expression."""
    return func.upper(collate(value, CASE_COLLATION))


class AssetRow(Base):
    """One asset, such as a coin, that listings of several sources describe."""

    __tablename__ = "assets"
    __table_args__ = (Index("assets_upper_symbol_idx", text(_UPPER_SYMBOL)),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    symbol: Mapped[str]
    name: Mapped[str]
    # The asset that received this asset's last listing. The slug resolves to it until this asset has a listing again.
    merged_into: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("assets.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))


class ListingRow(Base):
    """An asset as listed by one source in one quote currency."""

    __tablename__ = "listings"
    __table_args__ = (
        UniqueConstraint("source", "source_asset_id", "quote_currency"),
        Index("listings_upper_symbol_idx", text(_UPPER_SYMBOL)),
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
    created_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))


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
    # The evidence: similar names, prices, or the decision that this decision undoes.
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    decided_by: Mapped[str]
    reason: Mapped[str | None]
    decided_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))


class CandidateRow(Base):
    """Two assets that may be the same, but lack evidence for an automatic merge. Each rematch rebuilds these rows."""

    __tablename__ = "candidates"

    older: Mapped[int] = mapped_column("one", BigInteger, ForeignKey("assets.id"), key="older", primary_key=True)
    newer: Mapped[int] = mapped_column("other", BigInteger, ForeignKey("assets.id"), key="newer", primary_key=True)
    evidence: Mapped[dict[str, Any]]
    found_at: Mapped[datetime] = mapped_column(server_default=text("service_time()"))
