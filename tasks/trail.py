"""Whether a partition's pages lead on: no run is endless because its upstream repeats itself, or its cursor stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Engine, select

from sources.contract import Page, Source, TerminalError, TransientError, Window
from store.tables import Page as PageRow
from tasks.leases import Lease
from tasks.normalize import Normalized

LONGEST_SHOWN = 300


class _Step(NamedTuple):
    """What was asked, and what came: JSON texts, and the digest of the body."""

    request: str
    cursor: str
    digest: bytes


class Trail:
    """Where a slice has come in a partition.

    What it raises makes the run wait, and end after MAX_WAITS waits: a page that moves no cursor does not start their
    count anew.
    """

    def __init__(self, engine: Engine, source: Source, lease: Lease, window: Window):
        self._source, self._latest = source, window.latest
        self._begun_at = self._cursor = _text(window.cursor)
        self._last = _last_step(engine, lease) if source.upstreams else None
        self._passed: set[tuple[str, str]] = set()

    def follow(self, page: Page, read: Callable[[Page], Normalized]) -> None:
        """Before a page is taken in, raise TransientError if it leads nowhere. read: gives what a page's items are."""
        step = _Step(_text(page.request), _text(page.cursor), page.digest)
        if (step.request, step.cursor) in self._passed:
            raise self._stuck(f"its cursor stays while the same is asked again: {_shown(step.request)}")
        if self._last and self._repeats(self._last, step, page, read):
            raise TransientError(
                f"{self._source.name}: the answer to {_shown(step.request)} repeats, item for item, that to "
                f"{_shown(self._last.request)}",
                code="repeated_page",
            )
        self._passed.add((step.request, step.cursor))
        self._cursor = step.cursor
        # Files may say one thing twice. An upstream that is asked for another page must not.
        self._last = step if self._source.upstreams else None

    def check_cursor(self, page: Page, normalized: Normalized) -> None:
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

    def _repeats(self, last: _Step, step: _Step, page: Page, read: Callable[[Page], Normalized]) -> bool:
        if step.digest != last.digest or step.request == last.request or step.cursor == last.cursor:
            return False
        items = read(page)
        # One body may well answer two requests, where what was asked for makes the difference: two coins at one price.
        return items.fetched > 0 and items == read(replace(page, request=json.loads(last.request)))

    def _stuck(self, why: str, retry_after: float | None = None) -> TransientError:
        return TransientError(f"{self._source.name}: {why}", code="cursor_stuck", retry_after=retry_after)


def _last_step(engine: Engine, lease: Lease) -> _Step | None:
    """That of the run's last slice: a repeat may come to light only in the next."""
    with engine.connect() as connection:
        row = connection.execute(
            select(PageRow.request, PageRow.cursor, PageRow.body_digest)
            .where(PageRow.run == lease.claim.run, PageRow.partition == lease.partition)
            .order_by(PageRow.seq.desc())
            .limit(1)
        ).one_or_none()
    return _Step(_text(row.request), _text(row.cursor), bytes(row.body_digest)) if row else None


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
