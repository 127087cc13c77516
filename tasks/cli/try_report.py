"""Write what `python -m tasks try` found, as plain lines for a terminal. No line contains a secret."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TextIO
from urllib.parse import urlencode

from sources.contract import Source
from sources.csv.source import is_csv_source
from sources.record import VALUE_FIELDS, Quote
from sources.redaction import process_redactor
from tasks.cli.try_items import TriedItem, TriedPage
from tasks.cli.try_warnings import find_warnings
from tasks.pipeline.normalize import as_text

ITEMS_SHOWN = 3
PIPED_WIDTH = 200
"""Maximum characters of a line with data, if the output is no terminal."""


@dataclass
class Report:
    """Write a report page by page.

    quotes, pages: their numbers so far. has_contradiction: whether results disagree.
    warnings: the distinct warnings in order. bodies: the first page with each body, by digest.
    """

    out: TextIO
    source: Source
    quotes: int = 0
    pages: int = 0
    has_contradiction: bool = False
    warnings: dict[str, None] = field(default_factory=dict)
    bodies: dict[bytes, int] = field(default_factory=dict)

    def add(self, tried: TriedPage) -> None:
        """Write a page, and count it."""
        self.pages += 1
        self.quotes += len(tried.normalized.quotes)
        conflicts = tried.normalized.quotes.conflicts
        self.has_contradiction |= bool(conflicts.count or tried.disagreement)
        self._write(f"{self.source.name}, page {self.pages}: {_describe_page(self.source, tried)}")
        for line in (*_item_lines(tried), *_summary(self.source, tried)):
            self._write(line, is_data=True)
        for warning in find_warnings(self.source, tried):
            self.warnings.setdefault(warning)
        self._note_repeated(tried)
        self._write("")

    def _note_repeated(self, tried: TriedPage) -> None:
        """Warn of a page of an upstream that repeats an earlier one. A run would wait as `repeated_page`."""
        first = self.bodies.setdefault(tried.page.digest, self.pages)
        if first < self.pages and self.source.upstreams and tried.normalized.fetched:
            self.warnings.setdefault(f"Page {self.pages} repeats page {first}; does the upstream ignore a parameter?")

    def end(self, error: str | None) -> int:
        """Write the warnings and the result. Return the exit status: 0 if there is a quote, and nothing contradicts."""
        for warning in self.warnings:
            self._write(f"  warning   {warning}")
        if error:
            self._write(f"  error     {error}")
        elif not self.pages:
            self._write(f"  error     {self.source.name}: `fetch` yields no page; does a partition or a file exist?")
        is_good = not error and bool(self.quotes) and not self.has_contradiction
        self._write(f"{self.source.name}: {self._describe_result(error)}")
        return 0 if is_good else 1

    def _describe_result(self, error: str | None) -> str:
        found = _count(self.quotes, "quote")
        if error:
            return f"{found} before the error."
        if not self.quotes:
            return f"{found}. Correct the source before you register it."
        if self.has_contradiction:
            return f"{found}, but some results contradict each other."
        return f"{found}, {_count(len(self.warnings), 'warning')}. Nothing was stored."

    def _write(self, line: str, *, is_data: bool = False) -> None:
        line = process_redactor().hide("".join(char if char.isprintable() else ascii(char)[1:-1] for char in line))
        width = shutil.get_terminal_size().columns if self.out.isatty() else PIPED_WIDTH
        if is_data and len(line) > width:
            line = f"{line[: width - 1]}…"
        # A terminal may lack characters.
        encoding = self.out.encoding or "utf-8"
        line = line.encode(encoding, "backslashreplace").decode(encoding)
        self.out.write(f"{line}\n")


def _describe_page(source: Source, tried: TriedPage) -> str:
    """Return where a page comes from, and its size."""
    page, request = tried.page, tried.page.request
    size = f"{len(page.body):,} bytes"
    if is_csv_source(source):
        return f"{tried.origin}, from line {request['line']}, {size}"
    if page.response is None:
        return f"{tried.origin or json.dumps(request, ensure_ascii=False)}, {size}"
    params = request.get("params") or {}
    query = f"?{urlencode(params)}" if params else ""
    origin = f"{tried.origin}, " if tried.origin else ""
    return f"{origin}{request['method']} {request['url']}{query}, {size}"


def _item_lines(tried: TriedPage) -> Iterator[str]:
    """Yield the first items, each with the quote or the reject that it becomes."""
    for item in tried.items[:ITEMS_SHOWN]:
        yield f"  item {item.index}    {as_text(item.item)}"
        yield f"       →    {_describe_quote(item.quote) if item.quote else f'rejected: {_reasons(item)}'}"


def _describe_quote(quote: Quote) -> str:
    others = (
        f"{name} {getattr(quote, name)}"
        for name in VALUE_FIELDS
        if name != "price" and getattr(quote, name) is not None
    )
    listing = f"{quote.source_asset_id} ({quote.symbol}, {quote.name})"
    value = f"{listing}: {quote.price} {quote.quote_currency} at {quote.observed_at.isoformat()}"
    return ", ".join((value, *others))


def _reasons(item: TriedItem) -> str:
    return "; ".join(_reason(reason) for reason in item.reasons)


def _reason(reason: Mapping[str, str]) -> str:
    return f"{reason['field']}: {reason['detail']}" if reason["field"] else reason["detail"]


def _summary(source: Source, tried: TriedPage) -> Iterator[str]:
    """Yield the counts of a page, its rejects by reason, its conflicts and its cursor."""
    normalized = tried.normalized
    counts = {
        "rejected": normalized.rejected,
        "left out": normalized.left_out,
        "repeated": normalized.deduplicated,
        "blank": normalized.blank,
    }
    others = "".join(f", {count:,} {name}" for name, count in counts.items() if count)
    yield f"  counts    {_count(normalized.fetched, 'item')}: {_count(len(normalized.quotes), 'quote')}{others}"
    yield from _rejects(tried)
    if first := normalized.quotes.conflicts.first:
        conflicts = normalized.quotes.conflicts.count
        values = "; ".join(f"{name} {one} and {other}" for name, (one, other) in first.values.items())
        listing = f"{first.listing[0]} in {first.listing[1]} at {first.observed_at.isoformat()}"
        verb = "contradicts" if conflicts == 1 else "contradict"
        yield f"  conflicts {_count(conflicts, 'item')} {verb} a later one, the first for {listing}: {values}"
    if source.columns:
        yield f"  columns   {tried.disagreement or 'the same as `parse`'}"
    if tried.page.notice:
        yield f"  notice    {tried.page.notice}"
    if tried.page.waiting:
        yield f"  waiting   {tried.page.waiting}"
    yield f"  cursor    {json.dumps(tried.page.cursor, ensure_ascii=False)}"


def _rejects(tried: TriedPage) -> Iterator[str]:
    """Yield the number of rejects for each reason, with the first example."""
    reasons = [
        ((reason["code"], reason["field"]), reject) for reject in tried.normalized.rejects for reason in reject.reasons
    ]
    first = dict(reversed(reasons))
    for (code, name), count in Counter(key for key, _ in reasons).most_common():
        reject = first[code, name]
        [detail] = [reason["detail"] for reason in reject.reasons if (reason["code"], reason["field"]) == (code, name)][
            :1
        ]
        yield f"  rejected  {count:,} {code}{f' ({name})' if name else ''}, the first: {detail}"
        yield f"              item {reject.index}: {reject.item}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
