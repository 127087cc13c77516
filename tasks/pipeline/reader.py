"""Read the pages of a slice's partitions, and prefetch the next page while the current page is loaded.

Only sources that parse columns are prefetched, because parsing their pages takes as long as loading them. While the
last page of a partition is loaded, the first page of the next partition is prefetched without a lease. The slice uses
this page if it then gets the lease and the checkpoint has not changed. Otherwise the page is discarded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import Engine, select

from sources.contract import Cursor, Source, Window
from store.tables import PageRow
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.loop_guard import LoopGuard
from tasks.pipeline.page_row import Counters
from tasks.pipeline.prefetch import Prefetch
from tasks.pipeline.prepare import PagePreparer, PreparedPage
from tasks.runs.claims import Claim
from tasks.runs.leases import Lease
from tasks.runs.partitions import find_unleased_partition
from tasks.runtime.retry import DATABASE_ERRORS


@dataclass(frozen=True)
class _Reading:
    """A partition that is being read. prefetch: yields prefetched pages. None if the source is not prefetched."""

    window: Window
    pages: Generator[PreparedPage]
    prefetch: Prefetch[PreparedPage] | None

    def close(self) -> None:
        if self.prefetch:
            self.prefetch.close()
        self.pages.close()


class PageReader:
    """Read one partition after another for one slice. Close the reader after use."""

    def __init__(self, engine: Engine, source: Source, claim: Claim, preparer: PagePreparer):
        self._engine, self._source, self._claim, self._preparer = engine, source, claim, preparer
        # A replay's next page depends on corrections by the current page, so the current page must be committed first.
        self._reads_ahead = source.columns is not None and claim.kind != "replay"
        self._current: str | None = None
        self._upcoming: Sequence[str] = ()
        self._prefetched: _Reading | None = None
        # All partitions share one thread, because each further thread would hold another block in memory.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._inserts = True

    def close(self) -> None:
        self._discard_prefetched()
        self._thread.shutdown()

    @contextmanager
    def pages(self, lease: Lease, upcoming: Sequence[str]) -> Iterator[tuple[Iterable[PreparedPage], LoopGuard]]:
        """Yield the pages of a leased partition after its checkpoint, and the guard that checks their progress.

        upcoming: the partitions that follow. Prefetched pages include their rows.
        """
        self._current, self._upcoming = lease.partition, upcoming
        cursor = self._first_cursor(lease.partition, lease.cursor)
        reading = self._take_prefetched(lease.partition, cursor) or self._start(lease.partition, cursor)
        guard = LoopGuard(self._engine, self._source, lease, reading.window, self._preparer.reread)
        try:
            yield reading.prefetch or reading.pages, guard
        finally:
            self._current = None  # From now on, no other partition is prefetched.
            reading.close()

    def record_loaded(self, counters: Counters) -> None:
        """Record whether the page inserted rows, since the next page is likely to do the same."""
        self._inserts = counters.inserted > 0

    def _start(self, partition: str, cursor: Cursor | None) -> _Reading:
        window = self._preparer.window(partition, cursor)
        pages = self._read(window)
        return _Reading(window, pages, Prefetch(pages, self._thread) if self._reads_ahead else None)

    def _read(self, window: Window) -> Generator[PreparedPage]:
        has_pages = False
        with closing(self._preparer.prepare(window)) as pages:
            for prepared in pages:
                yield prepared._replace(rows=self._rows_ahead(prepared)) if self._reads_ahead else prepared
                has_pages = True
            # A partition without new pages ends immediately. A prefetched partition must not prefetch another one.
            if self._reads_ahead and has_pages and self._current == window.partition:
                self._prefetch_next()

    def _rows_ahead(self, prepared: PreparedPage) -> CopyRows:
        """Return the rows, after computing the digest, the spans and, while pages insert rows, the text for COPY."""
        rows = self._preparer.rows(prepared)
        _ = prepared.page.digest, rows.spans
        if self._inserts:
            _ = rows.text
        return rows

    def _prefetch_next(self) -> None:
        """Start to read the first upcoming partition that is not leased."""
        with suppress(*DATABASE_ERRORS):  # On an error, the partition is read later.
            if unleased := find_unleased_partition(self._engine, self._claim, self._upcoming):
                partition, cursor = unleased
                self._prefetched = self._start(partition, self._first_cursor(partition, cursor))

    def _take_prefetched(self, partition: str, cursor: Cursor | None) -> _Reading | None:
        reading = self._prefetched
        if reading and (reading.window.partition, reading.window.cursor) == (partition, cursor):
            self._prefetched = None
            return reading
        self._discard_prefetched()
        return None

    def _discard_prefetched(self) -> None:
        if self._prefetched:
            self._prefetched.close()
            self._prefetched = None
            self._preparer.reset_drift()

    def _first_cursor(self, partition: str, checkpoint: Cursor | None) -> Cursor | None:
        """Return the cursor to start at: the checkpoint's, or None at the beginning of a full refresh."""
        return None if self._begins_full_refresh(partition) else checkpoint

    def _begins_full_refresh(self, partition: str) -> bool:
        """Return whether the run is a full refresh that has no page of this partition yet."""
        if not self._claim.parameters.get("full_refresh"):
            return False
        loaded = select(PageRow.run).where(PageRow.run == self._claim.run, PageRow.partition == partition).limit(1)
        with self._engine.connect() as connection:
            return connection.scalar(loaded) is None
