"""Prepare pages for loading: fetch, parse and normalize them, and resolve their listings to ids."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from sqlalchemy import Engine

from settings import Settings
from sources.contract import Cursor, Page, Source, TransientError, Window
from sources.http.client import HttpClient
from sources.record_columns import key_of
from tasks.archive.retention import expired_before, without_expired
from tasks.archive.seen_quotes import KEY, is_retracting
from tasks.drift.watch import DriftWatch
from tasks.identity.overrides_file import get_overrides
from tasks.identity.resolver import ListingResolver
from tasks.pipeline.copy_rows import CopyRows, KnownListings, arrange
from tasks.pipeline.fetch import fetch_pages
from tasks.pipeline.normalize import NormalizedPage, normalize_page
from tasks.pipeline.revalidation import known_response, mapping_fingerprint
from tasks.pipeline.source_errors import own_code
from tasks.runs.claims import Claim
from tasks.runtime.retry import retry_transaction


class PreparedPage(NamedTuple):
    """A page ready to be loaded.

    rows:     None until its listings are resolved.
    deadline: the time after which no retry of its transactions may start (monotonic seconds).
    """

    page: Page
    normalized: NormalizedPage
    rows: CopyRows | None
    deadline: float


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
        self._listings = ListingResolver(
            engine,
            source.name,
            get_overrides() or {},
            renames=claim.kind == "live",
            patience=settings.transaction_timeout / 3,
        )
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
        with closing(fetch_pages(self._source, window, http)) as pages:
            for page in pages:
                with own_code(self._source):
                    normalized = self.normalize(page)
                yield PreparedPage(page, normalized, None, self.retry_deadline(time.monotonic()))

    def normalize(self, page: Page) -> NormalizedPage:
        """Parse a page and normalize its items. An unchanged page has no items, because they are already loaded."""
        if page.unchanged:
            return NormalizedPage(mapping=self._mapping)
        # Replayed and backfilled pages have the fields of an earlier time, so differences are not drift.
        examine = self._watch.examine if self._claim.kind == "live" else self._watch.apply_waiting
        # A page of a file is already limited by its number of records. Replayed pages, which have no upstream, were
        # accepted before.
        max_items = self._settings.max_page_items if self._source.upstreams else None
        normalized = normalize_page(self._source, page, self._settings.clock_skew, examine, max_items=max_items)
        normalized.mapping = self._mapping
        return normalized

    def reread(self, page: Page) -> NormalizedPage:
        """Normalize an already loaded page again, without recording its drift again."""
        return normalize_page(self._source, page, self._settings.clock_skew, self._watch.apply_waiting)

    def rows(self, prepared: PreparedPage) -> CopyRows:
        """Resolve the listings of a prepared page to ids. Return its quotes as rows, without expired quotes.

        Raise TransientError if resolving the listings took too long.
        """
        quotes, deadline = prepared.normalized.quotes, prepared.deadline
        listings = retry_transaction(lambda: self._listings.resolve(quotes.listings), deadline)
        frame = arrange(quotes, listings)
        # A record may also yield an expired quote, which is left out of the rows.
        seen = frame.select(KEY) if is_retracting(self._source, self._claim) else None
        if retention := self._source.retention.quotes:
            self.check_time(deadline)
            since = expired_before(self._clock(), retention)
            frame = retry_transaction(lambda: without_expired(self._engine, frame, since), deadline)
        keys = dict(zip(listings, map(key_of, quotes.listings), strict=True))
        known = KnownListings(self._source.name, keys)
        return CopyRows(frame, prepared.page.fetched_at, self._claim.run, known, seen=seen)

    def forget_listings(self) -> None:
        """Forget the ids of all listings, because the database was set back. Prefetched pages keep their old ids."""
        self._listings.forget()

    def retry_deadline(self, since: float) -> float:
        """Return the time after which no retry may start. All transactions of a page share this deadline.

        since: when the page was ready for its first transaction. Both are in monotonic seconds.
        """
        return since + self._settings.transaction_timeout / 2

    def check_time(self, deadline: float) -> None:
        """Raise TransientError if a transaction that starts now could end after the lease. deadline: for retries."""
        if time.monotonic() > deadline + self._settings.transaction_timeout:
            limit = 1.5 * self._settings.transaction_timeout
            raise TransientError(
                f"the page was not loaded: its first transactions took more than {limit:g} s; "
                "the run fetches the page again later",
                code="database_unavailable",
            )
