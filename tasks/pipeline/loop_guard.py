"""Detect runs that make no progress: repeated pages and cursors that do not advance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import Engine, select

from sources.contract import Page, Source, TerminalError, TransientError, Window
from store.tables import PageRow, RawBodyRow
from tasks.archive.raw_bodies import read_body
from tasks.pipeline.normalize import NormalizedPage
from tasks.runs.leases import Lease

MAX_QUOTED_CHARS = 300
"""Maximum characters of a request that an error message quotes."""

Reread = Callable[[Page], NormalizedPage]
"""A function that normalizes an already loaded page again."""


class _Step(NamedTuple):
    """A request and the cursor of its page, both as JSON text."""

    request: str
    cursor: str

    @classmethod
    def of(cls, page: Page) -> _Step:
        return cls(_json(page.request), _json(page.cursor))


class LoopGuard:
    """Check the progress of one slice in one partition.

    A TransientError makes the run wait. After MAX_WAITS waits, the run fails. A page that does not advance the cursor
    does not reset that count.
    """

    def __init__(self, engine: Engine, source: Source, lease: Lease, window: Window, reread: Reread):
        self._source, self._latest, self._reread = source, window.latest, reread
        self._first_cursor = self._cursor = _json(window.cursor)
        self._steps: set[_Step] = set()
        self._step_by_items: dict[bytes, _Step] = {}
        # The last page is normalized only when another page follows, because most partitions have a single page.
        self._last: tuple[Page | None, NormalizedPage | None] = (None, None)
        if source.upstreams:
            self._last = _last_page(engine, lease), None

    def check(self, page: Page, normalized: NormalizedPage) -> None:
        """Raise an error if this page makes no progress. Call this before the page is loaded.

        Raise TransientError if the page repeats an earlier page, or if the cursor does not advance. Raise TerminalError
        if an item from the future moved the cursor.
        """
        self._check_step(page, None if page.unchanged else normalized)
        self._check_cursor(page, normalized)

    def check_end(self) -> None:
        """Raise TransientError if the slice ends at its first cursor, since the next slice would do the same."""
        if self._cursor == self._first_cursor:
            # With retry_after, the error applies to the whole run. This slice is over and starts no other partition.
            raise self._stuck("its cursor did not move in a whole slice", retry_after=0)

    def _check_step(self, page: Page, normalized: NormalizedPage | None) -> None:
        step = _Step.of(page)
        if step in self._steps:
            raise self._stuck(f"its cursor does not advance while it repeats the request {_shortened(step.request)}")
        # Two files may have the same content. Two different requests to an upstream must not return the same items.
        if self._source.upstreams:
            if earlier := self._repeated(step, page, normalized):
                raise TransientError(
                    f"{self._source.name}: the response to {_shortened(step.request)} repeats, item for item, the "
                    f"response to {_shortened(earlier.request)}",
                    code="repeated_page",
                )
            self._last = page, normalized
        self._steps.add(step)
        self._cursor = step.cursor

    def _check_cursor(self, page: Page, normalized: NormalizedPage) -> None:
        """Raise TerminalError if an item that is rejected because of its time moved the cursor into the future.

        The run must not continue, because it would never request data from before that time again.
        """
        if not normalized.has_reject("in_future"):
            return
        for at in _times(page.cursor):
            if at > self._latest:
                raise TerminalError(
                    f"{self._source.name}: an item of {at.isoformat()} moved the cursor into the future; "
                    "`fetch` must ignore times beyond window.latest",
                    code="cursor_in_future",
                )

    def _repeated(self, step: _Step, page: Page, normalized: NormalizedPage | None) -> _Step | None:
        """Return the step of an earlier page with the same items, if its request and its cursor were different."""
        last_page, last_normalized = self._last
        if last_page is None:
            return None
        self._step_by_items.setdefault(self._items_digest(last_page, last_normalized), _Step.of(last_page))
        earlier = self._step_by_items.get(self._items_digest(page, normalized))
        is_repeated = earlier and earlier.request != step.request and earlier.cursor != step.cursor
        return earlier if is_repeated else None

    def _items_digest(self, page: Page, normalized: NormalizedPage | None) -> bytes:
        """Return a digest of a page's items that ignores their order. For an empty page, return its request and cursor.

        The body is ignored, since it may contain the time of the response. Quote times that equal the fetch time are
        ignored, too.
        """
        normalized = normalized or self._reread(page)
        if not normalized.fetched:
            return repr(_Step.of(page)).encode()
        quotes = normalized.quotes
        timeless_quotes = (
            (quotes.listings[index], None if at == page.fetched_at else at, values)
            for index, at, *values in quotes.rows()
        )
        rejects = ((reject.item, reject.reasons) for reject in normalized.rejects)
        lines = sorted(map(repr, timeless_quotes)) + sorted(map(repr, rejects))
        lines.append(normalized.other_rejects.hex())
        return sha256("\n".join(lines).encode("utf-8", "surrogatepass")).digest()

    def _stuck(self, problem: str, retry_after: float | None = None) -> TransientError:
        return TransientError(f"{self._source.name}: {problem}", code="cursor_stuck", retry_after=retry_after)


def _last_page(engine: Engine, lease: Lease) -> Page | None:
    """Return the last page of the run's earlier slices, or None if its body is no longer stored."""
    with engine.connect() as connection:
        row = connection.execute(
            select(PageRow.request, PageRow.cursor, PageRow.fetched_at, RawBodyRow.content_type, PageRow.body_digest)
            .join(RawBodyRow, (RawBodyRow.source == PageRow.source) & (RawBodyRow.digest == PageRow.body_digest))
            .where(PageRow.run == lease.claim.run, PageRow.partition == lease.partition)
            .order_by(PageRow.seq.desc())
            .limit(1)
        ).one_or_none()
        if row is None or (body := read_body(connection, lease.claim.source, bytes(row.body_digest))) is None:
            return None
    return Page(body, row.content_type, row.request, row.fetched_at, row.cursor)


def _times(value: Any) -> Iterator[datetime]:
    """Yield the times in a cursor. A time is a text with a UTC offset."""
    if isinstance(value, str):
        with suppress(ValueError):
            at = datetime.fromisoformat(value)
            if at.tzinfo:
                yield at
    elif isinstance(value, Mapping | list | tuple):
        for member in value.values() if isinstance(value, Mapping) else value:
            yield from _times(member)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _shortened(request: str) -> str:
    return request if len(request) <= MAX_QUOTED_CHARS else f"{request[:MAX_QUOTED_CHARS]}…"
