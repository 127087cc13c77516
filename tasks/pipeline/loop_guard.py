"""Whether a partition's pages lead on: no run is endless because its upstream repeats itself, or its cursor stays."""

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

LONGEST_SHOWN = 300


Read = Callable[[Page], NormalizedPage]
"""Gives what a page's items are."""


class _Step(NamedTuple):
    """What was asked, and where it led: JSON texts."""

    request: str
    cursor: str

    @classmethod
    def of(cls, page: Page) -> _Step:
        return cls(_text(page.request), _text(page.cursor))


class LoopGuard:
    """Where a slice has come in a partition.

    What it raises makes the run wait, and end after MAX_WAITS waits: a page that moves no cursor does not start their
    count anew.
    """

    def __init__(self, engine: Engine, source: Source, lease: Lease, window: Window, read: Read):
        self._source, self._latest, self._read = source, window.latest, read
        self._begun_at = self._cursor = _text(window.cursor)
        self._passed: set[_Step] = set()
        self._said: dict[bytes, _Step] = {}
        # Read only when another page follows: most partitions have one.
        self._last: tuple[Page | None, NormalizedPage | None] = (None, None)
        if source.upstreams:
            self._last = _last_page(engine, lease), None

    def follow(self, page: Page, normalized: NormalizedPage | None) -> None:
        """Before a page is taken in, raise TransientError if it leads nowhere. normalized: None if it was not read."""
        step = _Step.of(page)
        if step in self._passed:
            raise self._stuck(f"its cursor stays while the same is asked again: {_shown(step.request)}")
        # Files may say one thing twice. An upstream that is asked for another page must not.
        if self._source.upstreams:
            if earlier := self._repeated(step, page, normalized):
                raise TransientError(
                    f"{self._source.name}: the answer to {_shown(step.request)} repeats, item for item, that to "
                    f"{_shown(earlier.request)}",
                    code="repeated_page",
                )
            self._last = page, normalized
        self._passed.add(step)
        self._cursor = step.cursor

    def check_cursor(self, page: Page, normalized: NormalizedPage) -> None:
        """Raise TerminalError where an item that is refused for its time has moved the cursor there.

        Loud and at once: all that comes until then would never be asked for.
        """
        if any(reason["code"] == "in_future" for reject in normalized.rejects for reason in reject.reasons):
            for at in _times(page.cursor):
                if at > self._latest:
                    raise TerminalError(
                        f"{self._source.name}: an item of {at.isoformat()} moved the cursor; "
                        "`fetch` is to heed no time beyond window.latest",
                        code="cursor_in_future",
                    )

    def check_end(self) -> None:
        """When a slice's time is up, raise TransientError if the next would begin where this one did."""
        if self._cursor == self._begun_at:
            # With a time, as what is said of all partitions: no other is begun when the slice is over.
            raise self._stuck("its cursor did not move in a whole slice", retry_after=0)

    def _repeated(self, step: _Step, page: Page, normalized: NormalizedPage | None) -> _Step | None:
        """The step to which another was asked for and the same items came, be it in another body."""
        last, as_read = self._last
        if last is None:
            return None
        self._said.setdefault(self._items(last, as_read), _Step.of(last))
        earlier = self._said.get(self._items(page, normalized))
        led_on = earlier and earlier.request != step.request and earlier.cursor != step.cursor
        return earlier if led_on else None

    def _items(self, page: Page, normalized: NormalizedPage | None) -> bytes:
        """A digest of what a page says, whenever it was fetched and in whatever order; of an empty one, of where it is.

        It goes by what was read, not by the body: that may tell the time. And a body may well answer two requests, if
        what was asked for makes the difference: two coins at one price.
        """
        normalized = normalized or self._read(page)
        if not normalized.fetched:
            return repr(_Step.of(page)).encode()
        quotes = normalized.quotes
        timeless = (
            (quotes.listed[place], None if at == page.fetched_at else at, values)
            for place, at, *values in quotes.rows()
        )
        said = sorted(map(repr, timeless)) + sorted(repr((it.item, it.reasons)) for it in normalized.rejects)
        return sha256("\n".join(said).encode("utf-8", "surrogatepass")).digest()

    def _stuck(self, why: str, retry_after: float | None = None) -> TransientError:
        return TransientError(f"{self._source.name}: {why}", code="cursor_stuck", retry_after=retry_after)


def _last_page(engine: Engine, lease: Lease) -> Page | None:
    """That of the run's last slice: a repeat may come to light only in the next. None if its body is kept no more."""
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
    """Every text in a cursor that is a time with its offset from UTC."""
    if isinstance(value, str):
        with suppress(ValueError):
            at = datetime.fromisoformat(value)
            if at.tzinfo:
                yield at
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _times(part)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _shown(request: str) -> str:
    return request if len(request) <= LONGEST_SHOWN else f"{request[:LONGEST_SHOWN]}…"
