"""Provide connections that tests can cut, and runs that load single pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from settings import Settings
from sources.contract import Page, Source
from sources.http.authentication import Authenticator, Credentials
from sources.http.client import HttpClient
from sources.http.exchange import Access
from store.engine import make_engine
from tasks.pipeline.commit import commit_page
from tasks.pipeline.copy_rows import CopyRows
from tasks.pipeline.page_row import Counters
from tasks.pipeline.prepare import PagePreparer, PreparedPage
from tasks.runs.claims import Claim, claim_run
from tasks.runs.leases import Lease, take_lease
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED
from tests.wire import Wire


@pytest.fixture
def wire(settings: Settings) -> Iterator[Wire]:
    with Wire(settings.database_url) as wire:
        yield wire


@pytest.fixture
def wired(bench: Bench, wire: Wire) -> Iterator[Bench]:
    """Yield a bench with connections to Postgres that the wire can cut."""
    engine = make_engine(wire.url, "wired", transaction_timeout=bench.settings.transaction_timeout)
    yield replace(bench, engine=engine)
    engine.dispose()


@dataclass(frozen=True)
class OpenRun:
    """A claimed run with a leased partition. It prepares and commits single pages, as a slice does."""

    claim: Claim
    lease: Lease
    preparer: PagePreparer

    def prepare(self, page: Page) -> PreparedPage:
        normalized = self.preparer.normalize(page)
        return PreparedPage(page, normalized, None, self.preparer.retry_deadline(time.monotonic()))

    def rows(self, page: Page) -> CopyRows:
        return self.preparer.rows(self.prepare(page))

    def commit(self, bench: Bench, page: Page) -> tuple[int, Counters]:
        prepared = self.prepare(page)
        rows = self.preparer.rows(prepared)
        return commit_page(bench.engine, self.lease, page, prepared.normalized, rows, prepared.deadline)


OpenRunOf = Callable[..., OpenRun]


@pytest.fixture
def open_run(bench: Bench) -> Iterator[OpenRunOf]:
    """Yield a function that claims a run of a source and leases a partition. The current time of the run is FETCHED."""
    with ExitStack() as stack:

        def open_run(source: Source, partition: str = "", **parameters: Any) -> OpenRun:
            claim = claim_run(bench.engine, bench.request(source, **parameters))
            assert claim
            access = Access(
                source=source.name,
                url="",
                auth=Authenticator(Credentials(), lambda: FETCHED),
                deadline=bench.settings.request_deadline,
                max_body_bytes=bench.settings.max_body_bytes,
                max_body_values=bench.settings.max_body_values,
                spend=lambda: None,
                record_result=lambda _: None,
                clock=lambda: FETCHED,
            )
            http = stack.enter_context(closing(HttpClient(access)))
            preparer = PagePreparer(bench.engine, bench.settings, source, claim, lambda: FETCHED, http)
            return OpenRun(claim, take_lease(bench.engine, claim, partition, bench.settings.lease), preparer)

        yield open_run
