"""A page's items in, quotes and rejects out. Pure: no clock, no network, no database."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import polars as pl

from sources.contract import BLANK, Columns, Item, Page, Reject, Source
from sources.record import KEY_FIELDS, VALUE_FIELDS, Record
from sources.record_columns import validate_columns
from tasks.drift.mapping import map_item
from tasks.drift.policy import PageDrift
from tasks.pipeline.quote_frame import QuoteFrame

LONGEST_ITEM = 64 * 1024
"""Characters of a rejected item that are kept in its row; the whole of it is in the raw body."""

SAMPLE, FIRST = 1000, 100
"""Items of a page that are looked at for their fields; and as many where its rows are read side by side."""

TEXTS = (*KEY_FIELDS, "observed_at")
FIELDS = frozenset((*TEXTS, *VALUE_FIELDS))

Examine = Callable[[Page, Sequence[Item]], PageDrift]
"""Of a page and some of its items."""


@dataclass(frozen=True)
class RejectedItem:
    """index: the item's place among the page's items, from 0."""

    index: int
    item: str
    reasons: list[dict[str, str]]


@dataclass
class NormalizedPage:
    """What became of a page's items: fetched = len(quotes) + deduplicated + len(rejects).

    mapping: a fingerprint of the code that judged them (tasks/pipeline/revalidation.py).
    drift: what is otherwise with the page's fields than it was (tasks/drift/watch.py).
    """

    quotes: QuoteFrame = field(default_factory=QuoteFrame)
    rejects: list[RejectedItem] = field(default_factory=list)
    fetched: int = 0
    deduplicated: int = 0
    blank: int = 0
    mapping: bytes = b""
    drift: PageDrift = field(default_factory=PageDrift)


def normalize_page(source: Source, page: Page, clock_skew: float, examine: Examine | None = None) -> NormalizedPage:
    """Judge every item of a page. Of two quotes of one listing at one instant the later in the page stands.

    examine: says of some of its items what is to be done where fields have changed.
    Raises what `source.parse` raises for a body that it cannot read at all, and what `examine` does.
    """
    latest = page.fetched_at + timedelta(seconds=clock_skew)
    columns, drift = _columns(source, page, examine)
    judged = validate_columns(columns.frame, latest)
    closer = {**columns.apart, **{place: columns.item(place) for place in judged.left}}
    record, taken, rejects = Record(latest), [], []
    for place, item in sorted(closer.items(), key=lambda it: it[0]):
        if isinstance(item, Reject):
            rejects.append(RejectedItem(place, _as_text(item.item), item.reasons))
            continue
        try:
            taken.append((place, record.quote(map_item(source, item))))
        except Reject as reject:
            rejects.append(RejectedItem(place, _as_text(item), reject.reasons))
    quotes = QuoteFrame.of(judged, taken)
    return NormalizedPage(
        quotes=quotes,
        rejects=rejects,
        fetched=columns.fetched,
        deduplicated=columns.fetched - len(rejects) - len(quotes),
        blank=columns.blank,
        drift=drift,
    )


def _columns(source: Source, page: Page, examine: Examine | None) -> tuple[Columns, PageDrift]:
    columns = source.columns(page) if source.columns else None
    items = None if columns else list(source.parse(page))
    drift = PageDrift()
    if examine:
        drift = examine(page, _sample(items, columns))
        if drift.affecting:
            items = [drift.treated(item) for item in (source.parse(page) if items is None else items)]
    return _side_by_side(source, items) if items is not None else cast(Columns, columns), drift


def _sample(items: Sequence[Item] | None, columns: Columns | None) -> Sequence[Item]:
    """Some of a page's items, as they are without a look at each; where there are columns, of those that come first."""
    if items is not None:
        return items[:: len(items) // SAMPLE + 1]
    assert columns is not None
    return [columns.item(place) for place in range(min(FIRST, columns.fetched)) if place not in columns.apart]


def _side_by_side(source: Source, items: list[Item]) -> Columns:
    """The items of a page as columns; apart from those that are no rows of plain values."""
    blank = sum(item is BLANK for item in items)
    items = [item for item in items if item is not BLANK] if blank else items
    rows, apart = [], {}
    for place, item in enumerate(items):
        row = None if isinstance(item, Reject) else _row(source, item)
        if row is None:
            apart[place] = item
        else:
            rows.append([place, *row])
    schema = {"item": pl.UInt32, **dict.fromkeys((*TEXTS, *VALUE_FIELDS), pl.String)}
    frame = pl.DataFrame(dict(zip(schema, zip(*rows, strict=True), strict=True)) if rows else None, schema)
    return Columns(frame, items.__getitem__, len(items), blank, apart)


def _row(source: Source, item: Item) -> list[str | None] | None:
    """The fields of a normalized item as text; None if it must be looked at more closely."""
    try:
        normalized = map_item(source, item)
        texts = [*(_text(normalized.get(name)) for name in KEY_FIELDS), _time(normalized.get("observed_at"))]
        numbers = [_number(normalized.get(name)) for name in VALUE_FIELDS]
    except (Reject, TypeError, ValueError):
        return None
    return [*texts, *numbers] if normalized.keys() <= FIELDS else None


def _time(value: Any) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else _text(value)


def _text(value: Any) -> str | None:
    """A text as it is; raises TypeError or ValueError for what is none."""
    if value is None:
        return None
    if type(value) is not str:
        raise TypeError
    if not value.isascii():
        value.encode()  # half a character cannot be
    return str(value)


def _number(value: Any) -> str | None:
    return str(value) if type(value) is Decimal or type(value) is int else _text(value)


def _as_text(item: Item) -> str:
    for written in (lambda it: json.dumps(it, default=str), ascii):
        # Keys that JSON has not, a circle, a number of thousands of digits.
        with suppress(TypeError, ValueError, RecursionError):
            return written(item)[:LONGEST_ITEM]
    return type(item).__name__
