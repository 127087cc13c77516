"""A page's items in, quotes and rejects out. Pure: no clock, no network, no database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from billiard.exceptions import SoftTimeLimitExceeded

from sources.contract import BLANK, Item, Page, Reject, Source
from sources.record import Quote, Record

LONGEST_ITEM = 64 * 1024
"""Characters of a rejected item that are kept in its row; the whole of it is in the raw body."""

QuoteKey = tuple[str, str, datetime]


@dataclass(frozen=True)
class RejectedItem:
    """index: the item's place among the page's items, from 0."""

    index: int
    item: str
    reasons: list[dict[str, str]]


@dataclass
class Normalized:
    """What became of a page's items: fetched = len(quotes) + deduplicated + len(rejects).

    mapping: a fingerprint of the code that judged them (tasks/validators.py).
    """

    quotes: dict[QuoteKey, Quote] = field(default_factory=dict)
    rejects: list[RejectedItem] = field(default_factory=list)
    fetched: int = 0
    deduplicated: int = 0
    blank: int = 0
    mapping: bytes = b""


def normalize_page(source: Source, page: Page, clock_skew: float) -> Normalized:
    """Judge every item of a page. Of two quotes of one listing at one instant the later in the page stands.

    Raises what `source.parse` raises for a body that it cannot read at all.
    """
    record = Record(latest=page.fetched_at + timedelta(seconds=clock_skew))
    normalized = Normalized()
    for item in _items(source, page, normalized):
        try:
            quote = _quote(source, record, item)
        except Reject as reject:
            normalized.rejects.append(RejectedItem(normalized.fetched, _as_text(item), reject.reasons))
        else:
            key = (quote.source_asset_id, quote.quote_currency, quote.observed_at)
            normalized.deduplicated += key in normalized.quotes
            normalized.quotes[key] = quote
        normalized.fetched += 1
    return normalized


def _items(source: Source, page: Page, normalized: Normalized) -> Iterator[Item]:
    for item in source.parse(page):
        if item is BLANK:
            normalized.blank += 1
        else:
            yield item


def _quote(source: Source, record: Record, item: Item) -> Quote:
    if isinstance(item, Reject):
        raise item
    try:
        return record.quote(source.normalize(item))
    except (Reject, SoftTimeLimitExceeded):
        raise
    except Exception as error:
        raise Reject("", "unmappable", f"the mapping of {source.name} failed: {type(error).__name__}") from error


def _as_text(item: Item) -> str:
    shown = item.item if isinstance(item, Reject) else item
    try:
        return json.dumps(shown, default=str)[:LONGEST_ITEM]
    except (TypeError, ValueError):  # keys that JSON has not, or a circle
        return ascii(shown)[:LONGEST_ITEM]
