"""Find the page and the item that a stored quote was made from, by reading the stored body of the page again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import polars as pl
from sqlalchemy import Connection, Row, text

from sources.contract import Item, Page, Reject, Source
from sources.record import Record
from sources.record_columns import ListingKey, key_of, validate_columns
from tasks.archive.raw_bodies import read_body
from tasks.drift.mapping import map_item
from tasks.pipeline.normalize import latest_observation, parse_columns
from tasks.run_kinds.backfill import with_history

MAX_PAGES = 8
"""Maximum number of pages to read for one quote."""

# The run and the time of the fetch are those of the page that last wrote the quote.
_FIND_PAGES = text("""
    SELECT p.run, p.partition, p.seq, p.request, p.status, p.fetched_at, p.body_digest, b.content_type
      FROM quotes AS q
      JOIN pages AS p ON p.run = q.run AND p.fetched_at = q.fetched_at AND p.inserted + p.updated > 0
                     AND q.observed_at BETWEEN p.observed_from AND p.observed_until
                     AND (p.listings IS NULL OR q.listing_id = ANY(p.listings))
      JOIN raw_bodies AS b ON b.source = p.source AND b.digest = p.body_digest
     WHERE q.listing_id = :listing AND q.observed_at = :observed_at
     ORDER BY p.committed_at DESC, p.seq DESC
     LIMIT :max_pages
""")


@dataclass(frozen=True)
class Origin:
    """The page that wrote a quote.

    item_index: the index of the quote's item in the page, from 0.
    item:       the item as the source's `parse` yields it.
    """

    run: UUID
    partition: str
    seq: int
    request: Mapping[str, Any]
    fetched_at: datetime
    digest: bytes
    item_index: int
    item: Item


def find_origin(
    connection: Connection, source: Source, listing: int, key: ListingKey, observed_at: datetime, clock_skew: float
) -> Origin | None:
    """Return the origin of a quote.

    Return None if no stored page contains the quote: the body was deleted, or the current mapping reads it differently.
    """
    source = with_history(source)
    pages = connection.execute(
        _FIND_PAGES, {"listing": listing, "observed_at": observed_at, "max_pages": MAX_PAGES}
    ).all()
    for row in pages:
        body = read_body(connection, source.name, bytes(row.body_digest))
        found = None if body is None else find_item(source, _page(row, body), key, observed_at, clock_skew)
        if found:
            index, item = found
            digest = bytes(row.body_digest)
            return Origin(row.run, row.partition, row.seq, row.request, row.fetched_at, digest, index, item)
    return None


def find_item(
    source: Source, page: Page, key: ListingKey, observed_at: datetime, clock_skew: float
) -> tuple[int, Item] | None:
    """Return the index and the item of a quote in a page; None if there is none. Of several items, return the last."""
    latest = latest_observation(page, clock_skew)
    columns = parse_columns(source, page)
    validated = validate_columns(columns.frame, latest)
    listings = [index for index, listing in enumerate(validated.listings) if key_of(listing) == key]
    is_quote = pl.col("listing").is_in(listings) & (pl.col("observed_at") == observed_at)
    indexes = validated.accepted.filter(is_quote)["item"].to_list()
    undecided = {**columns.items_without_row, **{index: columns.item_at(index) for index in validated.undecided}}
    record = Record(latest)
    for index, item in undecided.items():
        if not isinstance(item, Reject) and _key(source, item, record) == (key, observed_at):
            indexes.append(index)
    if not indexes:
        return None
    index = max(indexes)
    return index, undecided[index] if index in undecided else columns.item_at(index)


def _key(source: Source, item: Item, record: Record) -> tuple[ListingKey, datetime] | None:
    try:
        quote = record.judge(map_item(source, item)).quote
    except Reject:
        return None
    return (quote.source_asset_id, quote.quote_currency), quote.observed_at


def _page(row: Row[Any], body: bytes) -> Page:
    return Page(body, row.content_type, row.request, row.fetched_at, None, row.status)
