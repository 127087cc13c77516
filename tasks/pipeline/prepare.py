"""Prepare pages for loading: fetch, parse and normalize them, and resolve their listings to ids."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from sqlalchemy import Engine

from settings import Settings
from sources.contract import Cursor, Page, Source, Window
from sources.http.client import HttpClient
from tasks.archive.retention import without_expired
from tasks.drift.watch import DriftWatch
from tasks.identity.overrides_file import get_overrides
from tasks.identity.resolver import ListingResolver
from tasks.pipeline.copy_rows import CopyRows, arrange
from tasks.pipeline.normalize import NormalizedPage, normalize_page
from tasks.pipeline.revalidation import known_response, mapping_fingerprint
from tasks.runs.claims import Claim
from tasks.runtime.retry import retry_transaction


class PreparedPage(NamedTuple):
    """A page ready to be loaded. rows: None until its listings are resolved."""

    page: Page
    normalized: NormalizedPage
    rows: CopyRows | None


class PagePreparer:
    """Prepare the pages of one slice, from all its partitions."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        source: Source,
        claim: Claim,
        clock: Callable[[], datetime],
        http: HttpClient,
    ):
        """Create a preparer. source: the source, adapted to the kind of run. clock: returns the database's time."""
        self._engine, self._settings, self._source, self._claim = engine, settings, source, claim
        self._clock, self._http = clock, http
        self._mapping = mapping_fingerprint(source)
        self._listings = ListingResolver(engine, source.name, get_overrides() or {}, renames=claim.kind == "live")
        self.reset_drift()

    def reset_drift(self) -> None:
        """Discard the drift of pages that will not be loaded, so that it is detected when they are read again."""
        self._watch = DriftWatch(self._engine, self._source, self._claim)

    def window(self, partition: str, cursor: Cursor | None) -> Window:
        """Return the window to fetch from a partition, starting at a cursor."""
        return Window(
            run=str(self._claim.run),
            partition=partition,
            cursor=cursor,
            now=self._clock(),
            slot=self._claim.scheduled_for,
            skew=timedelta(seconds=self._settings.clock_skew),
        )

    def prepare(self, window: Window) -> Generator[PreparedPage]:
        """Yield the pages of a window, fetched, parsed and normalized. Raise the errors of the source."""
        http = self._http
        if not self._claim.parameters.get("full_refresh"):
            http = http.with_known_responses(partial(known_response, self._engine, self._source, window.partition))
        pages = self._source.fetch(window, http)
        try:
            for page in pages:
                yield PreparedPage(page, self.normalize(page), None)
        finally:
            if isinstance(pages, Generator):
                pages.close()

    def normalize(self, page: Page) -> NormalizedPage:
        """Parse a page and normalize its items. An unchanged page has no items, because they are already loaded."""
        if page.unchanged:
            return NormalizedPage(mapping=self._mapping)
        # Replayed and backfilled pages have the fields of an earlier time, so differences are not drift.
        examine = self._watch.examine if self._claim.kind == "live" else self._watch.apply_waiting
        # Pages of files are limited by their records. Replayed pages, which have no upstream, were accepted before.
        max_items = self._settings.max_page_items if self._source.upstreams else None
        normalized = normalize_page(self._source, page, self._settings.clock_skew, examine, max_items=max_items)
        normalized.mapping = self._mapping
        return normalized

    def reread(self, page: Page) -> NormalizedPage:
        """Normalize an already loaded page again, without recording its drift again."""
        return normalize_page(self._source, page, self._settings.clock_skew, self._watch.apply_waiting)

    def rows(self, prepared: PreparedPage) -> CopyRows:
        """Resolve the listings of a prepared page to ids. Return its quotes as rows, without expired quotes."""
        quotes, deadline = prepared.normalized.quotes, self.retry_deadline()
        listings = retry_transaction(lambda: self._listings.resolve(quotes.listings), deadline)
        frame = arrange(quotes, listings)
        if retention := self._source.retention.quotes:
            since = self._clock() - retention
            frame = retry_transaction(lambda: without_expired(self._engine, frame, since), deadline)
        return CopyRows(frame, prepared.page.fetched_at, self._claim.run)

    def retry_deadline(self) -> float:
        """Return the time after which no retry may start (monotonic seconds). A later retry could outlive the lease."""
        return time.monotonic() + self._settings.transaction_timeout / 2
