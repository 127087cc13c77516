"""Read the items of one page as a run does, and compare the two ways to read a page that has columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from settings import Settings
from sources.contract import BLANK, LEFT_OUT, Item, Page, Reject, Source
from sources.record import KEY_FIELDS, VALUE_FIELDS, Quote, Record
from tasks.drift.mapping import map_item
from tasks.pipeline.normalize import NormalizedPage, latest_observation, normalize_page

MAX_ITEMS = 10_000
"""Maximum number of a page's items to examine one by one."""

COUNTS = ("fetched", "blank", "left_out", "deduplicated", "rejected")


@dataclass(frozen=True)
class TriedItem:
    """An item as `parse` returned it. index: its position in the page, without blank and left out items.

    fields: what `normalize` returned, or None. quote: the valid quote, or None. reasons: those of the reject.
    """

    index: int
    item: Item
    fields: Mapping[str, Any] | None
    quote: Quote | None
    reasons: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class TriedPage:
    """A page with its items and what a run would make of them.

    origin:      the partition, or the file that was read in place of a response.
    items:       the first MAX_ITEMS items, in the order of the page.
    is_last:     whether `fetch` ended by itself after this page.
    disagreement: the first difference between `columns` and `parse`, or None.
    """

    origin: str
    page: Page
    normalized: NormalizedPage
    items: Sequence[TriedItem]
    is_last: bool
    disagreement: str | None = None


def try_page(source: Source, origin: str, page: Page, settings: Settings, *, is_last: bool) -> TriedPage:
    """Return a page with its items. Raise the errors of the source's own functions."""
    max_items = settings.max_page_items if source.upstreams else None
    clock_skew = settings.clock_skew
    normalized = normalize_page(source, page, clock_skew, max_items=max_items)
    items = list(_items(source, page, clock_skew))
    disagreement = None
    if source.columns:
        rows = normalize_page(replace(source, columns=None), page, clock_skew, max_items=max_items)
        disagreement = find_difference(normalized, rows)
    return TriedPage(origin, page, normalized, items, is_last, disagreement)


def _items(source: Source, page: Page, clock_skew: float) -> Iterator[TriedItem]:
    record, index = Record(latest_observation(page, clock_skew)), 0
    for item in source.parse(page):
        if item is BLANK or item is LEFT_OUT:
            continue
        if index == MAX_ITEMS:
            return
        yield _tried(source, record, index, item)
        index += 1


def _tried(source: Source, record: Record, index: int, item: Item) -> TriedItem:
    if isinstance(item, Reject):
        return TriedItem(index, item.item, None, None, item.reasons)
    fields: Mapping[str, Any] | None = None
    try:
        fields = map_item(source, item)
        return TriedItem(index, item, fields, record.judge(fields).quote)
    except Reject as reject:
        return TriedItem(index, item, fields, None, reject.reasons)


def find_difference(columns: NormalizedPage, rows: NormalizedPage) -> str | None:
    """Return the first difference between a page that was read by `columns` and the same page by `parse`, or None."""
    return next(_differences(columns, rows), None)


def _differences(columns: NormalizedPage, rows: NormalizedPage) -> Iterator[str]:
    by_columns, by_rows = ({_key(quote): quote for quote in page.quotes} for page in (columns, rows))
    for key in dict.fromkeys([*by_rows, *by_columns]):
        first, second = by_columns.get(key), by_rows.get(key)
        if first is None or second is None:
            present, absent = ("parse", "columns") if first is None else ("columns", "parse")
            yield f"{_name(key)}: a quote by `{present}`, none by `{absent}`"
        else:
            yield from _different_fields(first, second)
    for by_column, by_row in zip_longest(columns.rejects, rows.rejects):
        if by_column != by_row:
            index = min(reject.index for reject in (by_column, by_row) if reject)
            yield f"item {index}: {_reasons(by_column)} by `columns`, {_reasons(by_row)} by `parse`"
    for name in COUNTS:
        if (first_count := getattr(columns, name)) != (second_count := getattr(rows, name)):
            yield f"{name}: {first_count} items by `columns`, {second_count} by `parse`"


def _different_fields(first: Quote, second: Quote) -> Iterator[str]:
    for name in (*KEY_FIELDS, *VALUE_FIELDS):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            yield f"{_name(_key(first))}: {name} is {_text(one)} by `columns`, {_text(other)} by `parse`"


def _key(quote: Quote) -> tuple[str, str, Any]:
    return quote.source_asset_id, quote.quote_currency, quote.observed_at


def _name(key: tuple[str, str, Any]) -> str:
    return f"{key[0]} in {key[1]} at {key[2].isoformat()}"


def _text(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _reasons(reject: Any) -> str:
    return "not rejected" if reject is None else f"rejected ({reject.reasons[0]['detail']})"
