"""Test that pages are fetched, parsed and normalized, and that their quotes become rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sources.contract import Http, Page, Response, Retention, Source, TerminalError, TransientError, Window
from tasks.pipeline.revalidation import mapping_fingerprint
from tasks.runs.parameters import ReplayParameters
from tests.tasks.conftest import Bench
from tests.tasks.pipeline.conftest import OpenRun, OpenRunOf
from tests.upstreams import FETCHED, OBSERVED, canned, item

DAY = timedelta(days=1)


def page_of(*items: dict[str, Any]) -> Page:
    return Page(json.dumps(items).encode(), "application/json", {}, FETCHED, {"next": 1})


def without_color(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "color"}


# Pages


def test_a_window_contains_the_run_the_cursor_and_the_database_time(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(canned())
    window = run.preparer.window("a", {"next": 3})
    assert window == Window(
        run=str(run.claim.run),
        partition="a",
        cursor={"next": 3},
        now=FETCHED,
        slot=None,
        skew=timedelta(seconds=bench.settings.clock_skew),
    )


def test_each_page_is_prepared_only_when_it_is_requested(open_run: OpenRunOf) -> None:
    fetched: list[int] = []
    run = open_run(canned([item(0), item(1, price="much")], [item(2)], before=fetched.append))
    pages = run.preparer.prepare(run.preparer.window("", None))
    first = next(pages)
    assert fetched == [0]
    assert (len(first.normalized.quotes), len(first.normalized.rejects), first.rows) == (1, 1, None)
    assert [len(prepared.normalized.quotes) for prepared in pages] == [1]
    assert fetched == [0, 1]


class HeldFetch:
    """A source that keeps a reference to its `fetch` generator, so that only an explicit `close` closes it."""

    def __init__(self, source: Source):
        self._fetch = source.fetch
        self.is_closed = False
        self.source = replace(source, fetch=self._start)

    def _start(self, window: Window, http: Http) -> Iterator[Page]:
        self._pages = self._read(window, http)
        return self._pages

    def _read(self, window: Window, http: Http) -> Iterator[Page]:
        try:
            yield from self._fetch(window, http)
        finally:
            self.is_closed = True


def test_closing_the_pages_also_closes_fetch(open_run: OpenRunOf) -> None:
    held = HeldFetch(canned([item(0)], [item(1)]))
    run = open_run(held.source)
    pages = run.preparer.prepare(run.preparer.window("", None))
    next(pages)
    assert not held.is_closed
    pages.close()
    assert held.is_closed


def test_fetch_is_closed_when_a_page_cannot_be_parsed(open_run: OpenRunOf) -> None:
    def parse(page: Page) -> list[Any]:
        raise TerminalError("no list", code="unreadable")

    held = HeldFetch(canned([item(0)], parse=parse))
    run = open_run(held.source)
    with pytest.raises(TerminalError, match="no list"):
        next(run.preparer.prepare(run.preparer.window("", None)))
    assert held.is_closed


def test_fetch_may_return_an_iterator_that_cannot_be_closed(open_run: OpenRunOf) -> None:
    run = open_run(replace(canned(), fetch=lambda window, http: iter([page_of(item())])))
    pages = list(run.preparer.prepare(run.preparer.window("", None)))
    assert [prepared.normalized.fetched for prepared in pages] == [1]


def test_an_unchanged_page_is_not_parsed_and_keeps_the_mappings_fingerprint(open_run: OpenRunOf) -> None:
    def parse(page: Page) -> list[Any]:
        raise AssertionError("an unchanged page was parsed")

    source = canned(parse=parse)
    reply = Response(b"[]", 304, "application/json", {}, FETCHED, unchanged=True)
    normalized = open_run(source).preparer.normalize(Page.of(reply, {"next": 1}))
    assert (normalized.fetched, len(normalized.quotes), normalized.rejects) == (0, 0, [])
    assert normalized.mapping == mapping_fingerprint(source)


# Rows


def test_rows_contain_their_listing_ids_and_the_run(bench: Bench, open_run: OpenRunOf) -> None:
    bench.ingest(canned([item(1)]))
    run = open_run(canned())
    rows = run.rows(page_of(item(0), item(1), item(2, price="much")))
    ids = {row["symbol"]: row["id"] for row in bench.rows("SELECT symbol, id FROM listings")}
    assert rows.frame["listing_id"].to_list() == sorted(ids[symbol] for symbol in ("C0", "C1"))
    assert (rows.run, rows.fetched_at) == (run.claim.run, FETCHED)
    assert "C2" not in ids, "a reject has a listing"


def test_expired_quotes_become_no_rows(open_run: OpenRunOf) -> None:
    run = open_run(canned(retention=Retention(quotes=40 * DAY)))
    times = [OBSERVED - 20 * DAY, OBSERVED]
    prepared = run.prepare(page_of(*(item(observed_at=time.isoformat()) for time in times)))
    assert len(prepared.normalized.quotes) == 2
    assert run.preparer.rows(prepared).frame["observed_at"].to_list() == [OBSERVED]


def test_expired_quotes_are_not_searched_long_after_the_deadline(open_run: OpenRunOf) -> None:
    run = open_run(canned(retention=Retention(quotes=40 * DAY)))
    prepared = run.prepare(page_of(item()))
    assert len(run.preparer.rows(prepared).frame) == 1
    with pytest.raises(TransientError, match="took more than"):
        run.preparer.rows(prepared._replace(deadline=0))


# Drift


@pytest.fixture
def run(bench: Bench, open_run: OpenRunOf) -> OpenRun:
    """Return a run of a source whose items have had the same fields so far, without a color."""
    source = canned([item(0)], normalize=without_color)
    bench.ingest(source)
    return open_run(source)


def new_fields(run: OpenRun, page: Page) -> list[str]:
    """Normalize a page. Return its new fields."""
    findings = run.preparer.normalize(page).drift.findings
    return [change.field for change, _ in findings.changes] if findings else []


RED = page_of(item(0, color="red"))


def test_drift_of_discarded_pages_is_detected_when_they_are_read_again(run: OpenRun) -> None:
    assert (new_fields(run, RED), new_fields(run, RED)) == (["color"], [])
    run.preparer.reset_drift()
    assert new_fields(run, RED) == ["color"]


def test_a_page_read_again_for_the_loop_guard_is_not_examined_for_drift(run: OpenRun) -> None:
    reread = run.preparer.reread(RED)
    assert (reread.drift.findings, len(reread.quotes)) == (None, 1)
    assert new_fields(run, RED) == ["color"]


def test_a_replayed_page_is_not_examined_for_drift(bench: Bench, run: OpenRun, open_run: OpenRunOf) -> None:
    source = canned(normalize=without_color)
    bench.rows("UPDATE runs SET status = 'succeeded', finished_at = now()")
    replay = open_run(source, "replay:", replay=ReplayParameters())
    normalized = replay.preparer.normalize(RED)
    assert (normalized.drift.findings, len(normalized.quotes)) == (None, 1)
