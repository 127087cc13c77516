"""Declare the tables of received bodies, pages and rejects."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, in_list

REJECT_STATES = (
    "quarantined",  # the mapping rejects the item
    "replayed",  # a replay read the body again, and the mapping accepted the item
)


# Each item of a page has one of these outcomes. Each is a column of `pages`.
OUTCOMES = ("inserted", "updated", "unchanged", "superseded", "deduplicated", "rejected", "left_out")


class ValidatorRow(Base):
    """The validators of an upstream's last response to a request, for conditional requests.

    They are committed with their page, so that they never describe a page that is not loaded. request: the SHA-256 of
    the request. mapping: the fingerprint of the code that read the body. If the code changes, the body is read again.
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
    """A body exactly as received, compressed with zstd, stored once per digest (SHA-256 of the uncompressed body).

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
        CheckConstraint(f"fetched = {' + '.join(OUTCOMES)}", name="conservation"),
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
    # Quotes that differ from a stored quote that takes precedence. Workers older than 0.2.0 count them as unchanged.
    superseded: Mapped[int] = mapped_column(server_default="0")
    deduplicated: Mapped[int]
    rejected: Mapped[int]
    # Items that the source's `parse` leaves out.
    left_out: Mapped[int] = mapped_column(server_default="0")
    blank: Mapped[int]
    # Items, counted above, whose values differ from another item of the run with the same listing and time; and the
    # first of them: {"source_asset_id", "quote_currency", "observed_at", "values": {field: [earlier, later]}}.
    conflicting: Mapped[int] = mapped_column(server_default="0")
    conflict: Mapped[dict[str, Any] | None]
    # Values that were dropped without their quote: [{"field", "code", "count", "detail", "item"}, …].
    dropped: Mapped[list[Any] | None]
    # The column is named `bytes`. An attribute of that name would hide the type that other columns use.
    bytes_: Mapped[int] = mapped_column("bytes", BigInteger)
    # The earliest and the latest time of the page's quotes; null without quotes.
    observed_from: Mapped[datetime | None]
    observed_until: Mapped[datetime | None]
    # The listings of the page's quotes; null if there are too many (tasks/pipeline/page_row.py).
    listings: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    # Number of the page's quotes that have a value, by field.
    filled: Mapped[dict[str, Any] | None]
    # The number of records whose listing or time is unknown, since they were rejected or wait. Null if the page's run
    # does not record the quotes that it sees.
    unidentified: Mapped[int | None]


class RejectRow(Base):
    """An item that could not become a quote. An item is one reject, even if its body is received again."""

    __tablename__ = "rejects"
    __table_args__ = (
        CheckConstraint(in_list("state", REJECT_STATES), name="state"),
        Index(None, "rejected_at", "source", "digest", "item_index"),
        Index(None, "reasons", postgresql_using="gin", postgresql_ops={"reasons": "jsonb_path_ops"}),
    )

    source: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    item_index: Mapped[int] = mapped_column(primary_key=True)
    # Text, since jsonb cannot store NUL and NaN, which a rejected item may contain.
    item: Mapped[str]
    # [{"field", "code", "detail"}, …]
    reasons: Mapped[list[Any]]
    state: Mapped[str] = mapped_column(server_default="quarantined")
    rejected_at: Mapped[datetime]
    replayed_at: Mapped[datetime | None]
