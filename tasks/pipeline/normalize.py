"""Convert the raw items of a page to quotes and rejects, without a clock, the network or the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any, cast

import polars as pl

from sources.contract import BLANK, LEFT_OUT, Columns, Item, Page, Reject, Source, TerminalError
from sources.faults import WrongResult, definition_line, name_type
from sources.record import KEY_FIELDS, VALUE_FIELDS, QuoteKey, Record
from sources.record_columns import validate_columns
from sources.reject_codes import MAX_REJECTS_PER_PAGE
from tasks.drift.mapping import map_item
from tasks.drift.policy import PageDrift
from tasks.pipeline.dropped import DroppedValues
from tasks.pipeline.quote_frame import QuoteFrame

MAX_ITEM_CHARS = 64 * 1024
"""Maximum characters of a rejected item to store. The raw body has the whole item."""

MAX_QUOTED_CHARS = 200
"""Maximum characters of an item in an error."""

SAMPLE_ITEMS, SAMPLE_ROWS = 1000, 100
"""Maximum number of a page's items to examine for drift, and of its rows if the page is parsed to columns."""

TEXT_FIELDS = (*KEY_FIELDS, "observed_at")
FIELDS = frozenset((*TEXT_FIELDS, *VALUE_FIELDS))

Examine = Callable[[Page, Sequence[Item]], PageDrift]
"""Compare the fields of a page's sample items with the known fields of its source."""


@dataclass(frozen=True)
class RejectedItem:
    """An item that could not become a quote.

    index: the item's position in the page, from 0.
    item:  the item as JSON, shortened.
    """

    index: int
    item: str
    reasons: list[dict[str, str]]


@dataclass
class NormalizedPage:
    """The quotes and rejects of a page. Invariant: fetched = len(quotes) + deduplicated + rejected + left_out.

    rejects: the first rejects, at most MAX_REJECTS_PER_PAGE. The others are only counted.
    rejected: the number of rejects. reject_codes: their codes.
    other_rejects: a digest of the rejects that are only counted.
    reject_keys: for a source that `replaces`, the keys of the quotes that the rejects would have been.
    unidentified: the number of rejects without such a key.
    blank:   number of rows without content. They do not count as items.
    left_out: number of items that `parse` leaves out.
    dropped: the invalid values that were dropped without their items.
    mapping: fingerprint of the code that read the page.
    drift:   differences between the fields of the page and the known fields of the source.
    """

    quotes: QuoteFrame = field(default_factory=QuoteFrame)
    rejects: list[RejectedItem] = field(default_factory=list)
    fetched: int = 0
    deduplicated: int = 0
    rejected: int = 0
    blank: int = 0
    left_out: int = 0
    dropped: DroppedValues = field(default_factory=DroppedValues)
    reject_codes: frozenset[str] = frozenset()
    other_rejects: bytes = b""
    reject_keys: frozenset[QuoteKey] = frozenset()
    unidentified: int = 0
    mapping: bytes = b""
    drift: PageDrift = field(default_factory=PageDrift)

    def has_reject(self, code: str) -> bool:
        """Return whether an item was rejected with this code."""
        return code in self.reject_codes

    @property
    def last_known_index(self) -> int:
        """Return the index of the last item that is known to be rejected or not."""
        return self.rejects[-1].index if self.rejected > len(self.rejects) else self.fetched


class _Rejects:
    """The rejects of a page. Only the first are kept, since a page can have a million."""

    def __init__(self) -> None:
        self.kept: list[RejectedItem] = []
        self.count = 0
        self.codes: set[str] = set()
        self.keys: set[QuoteKey] = set()
        self.identified = 0
        self._others = sha256()

    def identify(self, key: QuoteKey | None) -> None:
        """Note the key of the reject that was added last, if it is known."""
        if key:
            self.keys.add(key)
            self.identified += 1

    def add(self, index: int, item: Item, reasons: list[dict[str, str]]) -> None:
        self.count += 1
        self.codes.update(reason["code"] for reason in reasons)
        if len(self.kept) < MAX_REJECTS_PER_PAGE:
            self.kept.append(RejectedItem(index, as_text(item), reasons))
        else:
            self._others.update(repr((as_text(item), reasons)).encode("utf-8", "surrogatepass"))

    @property
    def digest_of_others(self) -> bytes:
        return self._others.digest() if self.count > len(self.kept) else b""


def normalize_page(
    source: Source, page: Page, clock_skew: float, examine: Examine | None = None, *, max_items: int | None = None
) -> NormalizedPage:
    """Convert every item of a page to a quote or a reject.

    Columns are validated as a whole. Items that remain undecided are then validated one by one. If two items are quotes
    of one listing at one instant, the later item is used.

    clock_skew: seconds that an observation may be later than the fetch.
    max_items:  the maximum number of items, if `source.parse` returns them one by one.
    Raise TerminalError for more items, the errors of `examine`, and those of `source.parse` for an unreadable body.
    """
    latest = latest_observation(page, clock_skew)
    columns, drift = _parse(source, page, examine, max_items)
    validated = validate_columns(columns.frame, latest)
    undecided = {**columns.items_without_row, **{index: columns.item_at(index) for index in validated.undecided}}
    record, single_quotes, rejects, dropped = Record(latest), [], _Rejects(), DroppedValues()
    for index, item in sorted(undecided.items(), key=lambda pair: pair[0]):
        if isinstance(item, Reject):
            rejects.add(index, item.item, item.reasons)
            continue
        try:
            judgment = record.judge(map_item(source, item))
        except Reject as reject:
            rejects.add(index, item, _located(source, reject.reasons))
            if source.replaces and reject.record is not None:
                rejects.identify(record.key(reject.record))
            continue
        single_quotes.append((index, judgment.quote))
        if judgment.dropped:
            dropped.add(judgment.dropped, partial(as_text, item))
    quotes = QuoteFrame.of(validated, single_quotes)
    return NormalizedPage(
        quotes=quotes,
        rejects=rejects.kept,
        fetched=columns.fetched + columns.left_out,
        deduplicated=columns.fetched - rejects.count - len(quotes),
        rejected=rejects.count,
        blank=columns.blank,
        left_out=columns.left_out,
        dropped=dropped,
        reject_codes=frozenset(rejects.codes),
        other_rejects=rejects.digest_of_others,
        reject_keys=frozenset(rejects.keys),
        unidentified=rejects.count - rejects.identified,
        drift=drift,
    )


def _located(source: Source, reasons: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the reasons of a reject, with the line of the mapping for a field that does not exist."""
    return [
        {**reason, "detail": f"{reason['detail']} ({definition_line(source.normalize)})"}
        if reason["code"] == "unknown_field"
        else reason
        for reason in reasons
    ]


def latest_observation(page: Page, clock_skew: float) -> datetime:
    """Return the latest allowed time of an observation in a page."""
    return page.fetched_at + timedelta(seconds=clock_skew)


def parse_columns(source: Source, page: Page) -> Columns:
    """Parse a page to columns, without regard to drift."""
    return _parse(source, page, None, None)[0]


def _parse(source: Source, page: Page, examine: Examine | None, max_items: int | None) -> tuple[Columns, PageDrift]:
    """Parse a page to columns, with its drift policy applied."""
    columns = source.columns(page) if source.columns else None
    if not isinstance(columns, Columns | None):
        raise WrongResult("columns", f"must return Columns or None, but returned {name_type(columns)}")
    items = None if columns else _items(source, page, max_items)
    drift = PageDrift()
    if examine:
        drift = examine(page, _sample(items, columns))
        if drift.changes_in_force:
            items = [drift.apply(item) for item in (_parsed(source.parse(page)) if items is None else items)]
    return _as_columns(source, items) if items is not None else cast(Columns, columns), drift


def _items(source: Source, page: Page, max_items: int | None) -> list[Item]:
    parsed = _parsed(source.parse(page))
    items = list(parsed if max_items is None else islice(parsed, max_items + 1))
    if max_items is not None and len(items) > max_items:
        raise TerminalError(
            f"{source.name}: a page has more than {max_items} items; request fewer items at a time, or raise "
            f"MAX_PAGE_ITEMS and the worker's memory. The first of them: {', '.join(map(_quoted, items[:3]))}",
            code="page_too_large",
        )
    return items


def _parsed(items: Any) -> Iterator[Item]:
    """Yield the items that `parse` returned; raise WrongResult if it did not return or yield items."""
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise WrongResult("parse", f"must return a list of items or yield them, but returned {name_type(items)}")
    result = yield from cast(Any, items)
    if result is not None:
        raise WrongResult("parse", f"yields items and also returned {name_type(result)}, which would be lost; yield it")


def _quoted(item: Item) -> str:
    return as_text(item)[:MAX_QUOTED_CHARS]


def _sample(items: Sequence[Item] | None, columns: Columns | None) -> Sequence[Item]:
    """Return evenly spaced items of a page, or its first rows if it is parsed to columns."""
    if items is not None:
        return items[:: len(items) // SAMPLE_ITEMS + 1]
    assert columns is not None
    indexes = range(min(SAMPLE_ROWS, columns.fetched))
    return [columns.item_at(index) for index in indexes if index not in columns.items_without_row]


def _as_columns(source: Source, items: list[Item]) -> Columns:
    """Map the items of a page to columns. Only items whose values are plain texts and numbers get a row."""
    blank, left_out = (sum(item is mark for item in items) for mark in (BLANK, LEFT_OUT))
    items = [item for item in items if item is not BLANK and item is not LEFT_OUT] if blank or left_out else items
    rows, items_without_row = [], {}
    for index, item in enumerate(items):
        row = None if isinstance(item, Reject) else _row(source, item)
        if row is None:
            items_without_row[index] = item
        else:
            rows.append([index, *row])
    schema = {"item": pl.UInt32, **dict.fromkeys((*TEXT_FIELDS, *VALUE_FIELDS), pl.String)}
    frame = pl.DataFrame(dict(zip(schema, zip(*rows, strict=True), strict=True)) if rows else None, schema)
    return Columns(frame, items.__getitem__, len(items), blank, items_without_row, left_out)


def _row(source: Source, item: Item) -> list[str | None] | None:
    """Return the fields of a mapped item as text, or None for an item that must be validated on its own."""
    try:
        fields = map_item(source, item)
        texts = [*(_text(fields.get(name)) for name in KEY_FIELDS), _time(fields.get("observed_at"))]
        numbers = [_number(fields.get(name)) for name in VALUE_FIELDS]
    except (Reject, TypeError, ValueError):
        return None
    return [*texts, *numbers] if fields.keys() <= FIELDS else None


def _time(value: Any) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else _text(value)


def _text(value: Any) -> str | None:
    """Return a text unchanged. Raise TypeError for other types, ValueError for text that UTF-8 cannot encode."""
    if value is None:
        return None
    if type(value) is not str:
        raise TypeError
    if not value.isascii():
        value.encode()  # A lone surrogate raises an error.
    return str(value)


def _number(value: Any) -> str | None:
    return str(value) if type(value) is Decimal or type(value) is int else _text(value)


def as_text(item: Item) -> str:
    """Return an item as JSON, shortened to MAX_ITEM_CHARS."""
    for write in (lambda value: json.dumps(value, default=str), ascii):
        # JSON fails on unusual keys, on cycles, and on numbers of thousands of digits.
        with suppress(TypeError, ValueError, RecursionError):
            return write(item)[:MAX_ITEM_CHARS]
    return type(item).__name__
