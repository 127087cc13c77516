"""Test that a page is committed once, even if its connection breaks during the commit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from sources.contract import Http, Page, Window
from tasks.pipeline.commit import commit_page
from tasks.pipeline.page_row import Counters
from tasks.runs.leases import LeaseLost
from tests.tasks.conftest import Bench
from tests.tasks.pipeline.conftest import OpenRunOf
from tests.tasks.pipeline.two_pages import OUTCOME, assert_loaded_once, finish, run_slice, two_pages
from tests.upstreams import FETCHED, canned, item
from tests.wire import Wire

LAST_STATEMENT_OF_A_PAGE = b"INSERT INTO pages"


def page_of(cursor: int = 1) -> Page:
    return Page(b"[]", "application/json", {"page": cursor}, FETCHED, {"next": cursor})


def test_each_commit_returns_the_number_and_the_counters_of_its_page(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(canned(parse=lambda _: [item(0), item(1), item(1), item(2, price="much")]))
    nothing = dict.fromkeys(("inserted", "updated", "unchanged", "superseded", "left_out", "blank", "conflicting"), 0)
    counted = {**nothing, "fetched": 4, "deduplicated": 1, "rejected": 1, "bytes": 2}
    assert run.commit(bench, page_of(1)) == (0, Counters(**{**counted, "inserted": 2}))
    assert run.commit(bench, page_of(2)) == (1, Counters(**{**counted, "unchanged": 2}))
    assert run.lease.version == bench.one("SELECT version FROM checkpoints")


def test_the_next_page_of_a_slice_is_committed_after_a_page_that_failed(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(canned(parse=lambda _: [item()]))

    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 — raised just above
        run.commit(bench, replace(page_of(), confirm=fail))
    assert (run.lease.version, bench.one("SELECT count(*) FROM pages")) == (0, 0)
    assert run.commit(bench, page_of())[0] == 0


def test_a_commit_that_fails_after_the_deadline_is_not_retried(
    bench: Bench, wired: Bench, wire: Wire, open_run: OpenRunOf
) -> None:
    run = open_run(canned(parse=lambda _: [item()]))
    page = page_of()
    prepared, rows = run.prepare(page), run.rows(page)
    wire.cut(1, since=LAST_STATEMENT_OF_A_PAGE)
    with pytest.raises(DBAPIError):
        commit_page(wired.engine, run.lease, page, prepared.normalized, rows, deadline=time.monotonic())
    assert (run.lease.version, bench.one("SELECT count(*) FROM pages")) == (0, 0)


def test_a_page_whose_listings_took_until_the_deadline_is_not_retried(bench: Bench, wired: Bench, wire: Wire) -> None:
    bench.rows("ALTER TABLE listings ADD CONSTRAINT slow CHECK (pg_sleep(0.35)::text IS NOT NULL)")
    wire.cut(1, since=LAST_STATEMENT_OF_A_PAGE)
    run = wired.slice(wired.request(canned([item()])), transaction_timeout=0.6)
    assert (run["status"], run["waiting_reason"].partition(":")[0]) == ("waiting", "database_unavailable")
    assert bench.one("SELECT count(*) FROM pages") == 0


def test_a_commit_with_a_lost_response_is_recognized_as_committed(
    bench: Bench, wired: Bench, wire: Wire, open_run: OpenRunOf
) -> None:
    run = open_run(canned(parse=lambda _: [item(0), item(1)]))
    wire.cut(1, since=LAST_STATEMENT_OF_A_PAGE, withhold_response=True)
    with capture_logs() as logs:
        seq, counters = run.commit(wired, page_of())
    assert wire.struck
    assert (seq, counters.fetched, counters.inserted, counters.unchanged) == (0, 2, 2, 0)
    assert run.lease.version == bench.one("SELECT version FROM checkpoints")
    assert "commit_response_lost" in [log["event"] for log in logs]


def test_a_slice_continues_after_a_commit_with_a_lost_response(bench: Bench, wired: Bench, wire: Wire) -> None:
    fetched: list[int] = []
    run = bench.request(two_pages(fetched))
    wire.cut(1, since=LAST_STATEMENT_OF_A_PAGE, withhold_response=True)
    run_slice(wired, run)
    assert wire.struck
    assert (fetched, bench.run(run)["claims"]) == ([0, 1], 1)
    assert_loaded_once(bench, run)


def test_a_commit_that_never_reached_postgres_is_retried_by_the_same_slice(
    bench: Bench, wired: Bench, wire: Wire
) -> None:
    fetched: list[int] = []
    run = bench.request(two_pages(fetched))
    wire.cut(1, since=LAST_STATEMENT_OF_A_PAGE)
    run_slice(wired, run)
    assert wire.struck
    assert (fetched, bench.run(run)["claims"]) == ([0, 1], 1)
    assert_loaded_once(bench, run)


@pytest.mark.parametrize("pages_before", [1, 2])
def test_a_slice_stops_if_postgres_lost_a_committed_page(bench: Bench, pages_before: int) -> None:
    """Postgres may lose committed pages in a failover to a standby that lags behind."""
    source = two_pages()

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        pages = source.fetch(window, http)
        yield from islice(pages, pages_before)
        if bench.run(run)["claims"] == 1:
            bench.rows("DELETE FROM pages WHERE seq = :last", last=pages_before - 1)
            bench.rows("UPDATE checkpoints SET version = version - 1, cursor = CAST(:cursor AS jsonb)", cursor=older)
        yield from pages

    run = bench.request(replace(source, fetch=fetch))
    older = None if pages_before == 1 else f'{{"run": "{run}", "next": 1}}'
    run_slice(bench, run)
    assert bench.run(run)["status"] == "running"
    finish(bench, run)
    row = bench.rows(OUTCOME, run=run, source="two")[0]
    assert (bench.run(run)["status"], row["pages"], row["next"], row["fetched"]) == ("succeeded", 2, 2, 5)


def test_a_page_is_not_committed_if_another_process_moved_the_checkpoint(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(canned(parse=lambda _: [item()]))
    bench.rows("UPDATE checkpoints SET version = version + 3")
    with pytest.raises(LeaseLost, match="the checkpoint of partition '' changed since the last commit"):
        run.commit(bench, page_of())
    assert bench.one("SELECT count(*) FROM quotes") == 0
    assert (bench.one("SELECT version FROM checkpoints"), bench.one("SELECT cursor FROM checkpoints")) == (3, None)
