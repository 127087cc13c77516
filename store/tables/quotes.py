"""Declare the tables of quotes and of the revisions that count other changes."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base


class QuoteRow(Base):
    """The price and other values of one listing at one time.

    It has no foreign keys, since each would cost a trigger per row and block retention. A test and the
    integrity check quotes_without_listing verify the references instead.
    """

    __tablename__ = "quotes"
    __table_args__ = (
        # Ascending: a backward scan returns the newest first. With one DESC column, both orders would need a sort.
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
    # The start of the transaction that wrote the quote. The member ingested_until of /data relies on this.
    ingested_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    run: Mapped[uuid.UUID]


class LatestQuoteRow(Base):
    """The time of a listing's newest quote, updated in the transaction that loads the quote."""

    __tablename__ = "latest_quotes"

    listing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    observed_at: Mapped[datetime]


class SeenQuoteRow(Base):
    """A quote that a record yields, in a full refresh of a source whose files are the whole truth.

    Rows are written with their page, and deleted after the end of their run. They have no foreign keys, like quotes.
    """

    __tablename__ = "seen_quotes"

    run: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    listing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    observed_at: Mapped[datetime] = mapped_column(primary_key=True)


class RevisionRow(Base):
    """A number that grows, by random steps, with each statement that changes assets or listings, or deletes quotes.

    Triggers increase it. The steps are random, so that a database that lost changes does not repeat their numbers.

    Loading quotes does not increase it, since each committed page increases the version of its checkpoint.
    """

    __tablename__ = "revisions"

    part: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
