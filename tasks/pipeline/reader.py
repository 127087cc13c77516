"""What a slice reads: the pages of its partitions, each with what its items are.

Where items can be judged side by side, one page is read ahead of the one that is being loaded: while that is the last
of its partition, the first of the next. It is read without a lease. Whoever gets that lease, with the cursor that it
was read from, uses it; else it was read in vain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from sqlalchemy import Engine, select

from settings import Settings
from sources.contract import Cursor, Page, Source, Window
from sources.http.client import HttpClient
from store import tables
from tasks.archive.retention import without_expired
from tasks.drift.watch import DriftWatch
from tasks.identity.overrides_file import get_overrides
from tasks.identity.resolver import ListingResolver
from tasks.pipeline.copy_rows import CopyRows, arrange
from tasks.pipeline.load import Counters
from tasks.pipeline.loop_guard import LoopGuard
from tasks.pipeline.normalize import NormalizedPage, normalize_page
from tasks.pipeline.prefetch import Prefetch
from tasks.pipeline.revalidation import known_response
from tasks.runs.claims import Claim
from tasks.runs.leases import Lease
from tasks.runs.partitions import find_unleased_partition
from tasks.runtime.retry import DATABASE_ERRORS, retry_transaction


class PreparedPage(NamedTuple):
    """A page that can be loaded, once it has its rows."""

    page: Page
    normalized: NormalizedPage
    rows: CopyRows | None


@dataclass(frozen=True)
class _Begun:
    """A partition that is being read. ahead: makes the same items, one of them in advance; None if that is not done."""

    window: Window
    items: Generator[PreparedPage]
    ahead: Prefetch[PreparedPage] | None

    def close(self) -> None:
        if self.ahead:
            self.ahead.close()
        self.items.close()


class PageReader:
    """Of one slice; to be closed after it."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        source: Source,
        claim: Claim,
        clock: Callable[[], datetime],
        http: HttpClient,
    ):
        self._engine, self._settings, self._source, self._claim = engine, settings, source, claim
        self._clock, self._http = clock, http
        self._listings = ListingResolver(engine, source.name, get_overrides() or {}, renames=claim.kind == "live")
        self._watch = self._anew()
        # A replay goes on by what its last page has corrected, which is not to be known before that is committed.
        self._is_ahead = source.columns is not None and claim.kind != "replay"
        self._current: str | None = None
        self._upcoming: Sequence[str] = ()
        self._foreseen: _Begun | None = None
        # One for all partitions: a second would keep as much memory for itself as a block takes.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
        self._adds = True

    def close(self) -> None:
        self._drop_foreseen()
        self._thread.shutdown()

    def _drop_foreseen(self) -> None:
        if self._foreseen:
            self._foreseen.close()
            self._foreseen = None
            # What was seen there is to be seen again, by whoever reads it again.
            self._watch = self._anew()

    @contextmanager
    def pages(self, lease: Lease, upcoming: Sequence[str]) -> Iterator[tuple[Iterable[PreparedPage], LoopGuard]]:
        """The pages of a partition; where one is read ahead, with its rows. upcoming: the partitions that follow."""
        self._current, self._upcoming = lease.partition, upcoming
        cursor = self._start(lease.partition, lease.cursor)
        begun = self._as_foreseen(lease.partition, cursor) or self._begin(lease.partition, cursor)
        try:
            yield begun.ahead or begun.items, LoopGuard(self._engine, self._source, lease, begun.window, self._judged)
        finally:
            self._current = None  # nothing is foreseen any more
            begun.close()

    def loaded(self, counters: Counters) -> None:
        """What became of the page that came last."""
        self._adds = counters.inserted > 0

    def rows(self, ready: PreparedPage) -> CopyRows:
        page, quotes, until = ready.page, ready.normalized.quotes, self.last_try()
        listings = retry_transaction(lambda: self._listings.resolve(quotes.listed), until)
        arranged = arrange(quotes, listings)
        if kept := self._source.retention.quotes:
            since = self._clock() - kept
            arranged = retry_transaction(lambda: without_expired(self._engine, arranged, since), until)
        return CopyRows(arranged, page.fetched_at, self._claim.run)

    def last_try(self) -> float:
        """When a transaction is begun no more, on the monotonic clock: begun later, it could outlive the lease."""
        return time.monotonic() + self._settings.transaction_timeout / 2

    def _begin(self, partition: str, cursor: Cursor | None) -> _Begun:
        window = Window(
            run=str(self._claim.run),
            partition=partition,
            cursor=cursor,
            now=self._clock(),
            slot=self._claim.scheduled_for,
            skew=timedelta(seconds=self._settings.clock_skew),
        )
        items = self._ready(window)
        return _Begun(window, items, Prefetch(items, self._thread) if self._is_ahead else None)

    def _ready(self, window: Window) -> Generator[PreparedPage]:
        http = self._http
        if not self._claim.parameters.get("full_refresh"):
            http = http.knowing(partial(known_response, self._engine, self._source, window.partition))
        pages, some = self._source.fetch(window, http), False
        try:
            for page in pages:
                ready = PreparedPage(page, self._normalized(page), None)
                yield ready._replace(rows=self._rows_ahead(ready)) if self._is_ahead else ready
                some = True
            # Of one that had nothing new the end is here at once; and what is itself foreseen foresees nothing.
            if self._is_ahead and some and self._current == window.partition:
                self._foresee()
        finally:
            if isinstance(pages, Generator):
                pages.close()

    def _foresee(self) -> None:
        """Begin with the next partition that nobody is at."""
        with suppress(*DATABASE_ERRORS):  # it is begun with once its lease is had
            if free := find_unleased_partition(self._engine, self._claim, self._upcoming):
                partition, cursor = free
                self._foreseen = self._begin(partition, self._start(partition, cursor))

    def _as_foreseen(self, partition: str, cursor: Cursor | None) -> _Begun | None:
        foreseen = self._foreseen
        if foreseen and (foreseen.window.partition, foreseen.window.cursor) == (partition, cursor):
            self._foreseen = None
            return foreseen
        self._drop_foreseen()
        return None

    def _start(self, partition: str, cursor: Cursor | None) -> Cursor | None:
        """From where a partition is read. cursor: its checkpoint's."""
        return None if self._starts_afresh(partition) else cursor

    def _anew(self) -> DriftWatch:
        return DriftWatch(self._engine, self._source, self._claim)

    def _starts_afresh(self, partition: str) -> bool:
        """Whether this is the first that a run with full_refresh does of the partition."""
        if not self._claim.parameters.get("full_refresh"):
            return False
        begun = (
            select(tables.PageRow.run)
            .where(tables.PageRow.run == self._claim.run, tables.PageRow.partition == partition)
            .limit(1)
        )
        with self._engine.connect() as connection:
            return connection.scalar(begun) is None

    def _rows_ahead(self, ready: PreparedPage) -> CopyRows:
        """With all that takes a while: the body's digest, and, while what came before was new, the rows written out."""
        rows = self.rows(ready)
        _ = ready.page.digest, rows.spans
        if self._adds:
            _ = rows.text
        return rows

    def _normalized(self, page: Page) -> NormalizedPage:
        # What is unchanged is in.
        if page.unchanged:
            return NormalizedPage()
        # What was kept is as it was then.
        examine = self._watch.look if self._claim.kind == "live" else self._watch.treat
        return normalize_page(self._source, page, self._settings.clock_skew, examine)

    def _judged(self, page: Page) -> NormalizedPage:
        return normalize_page(self._source, page, self._settings.clock_skew, self._watch.treat)
