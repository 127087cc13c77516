"""A slice whose connection to Postgres breaks, at whichever statement, before the server hears it or after."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy.exc import DBAPIError

from settings import Settings
from sources.contract import Http, Page, Source, Upstream, Window
from store.engine import make_engine
from tasks.ingest import work_on
from tasks.runs.claims import ClaimLost, claim_run
from tasks.runs.leases import LeaseLost
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item
from tests.wire import Wire

LOADED = """
    SELECT l.source, string_agg(concat_ws(' ', source_asset_id, quote_currency, l.symbol, slug, q.observed_at, price,
                                          n.observed_at), ', ' ORDER BY source_asset_id, q.observed_at) AS content
      FROM quotes q JOIN listings l ON l.id = q.listing_id JOIN assets a ON a.id = l.asset
      JOIN latest_quotes n ON n.listing_id = l.id GROUP BY 1
"""
OUTCOME = """
    SELECT sum(fetched) AS fetched, sum(inserted) AS inserted, sum(updated) AS updated, sum(rejected) AS rejected,
           count(*) AS pages, (SELECT version FROM checkpoints WHERE source = :source) AS version,
           (SELECT count(*) FROM checkpoints WHERE source = :source AND lease_run IS NOT NULL) AS leases
      FROM pages WHERE run = :run
"""
UNDISTURBED = {"fetched": 5, "inserted": 3, "updated": 1, "rejected": 1, "pages": 2, "version": 2, "leases": 0}
LAST_OF_A_PAGE = b"INSERT INTO pages"


@pytest.fixture
def wire(settings: Settings) -> Iterator[Wire]:
    with Wire(settings.database_url) as wire:
        yield wire


@pytest.fixture
def wired(bench: Bench, wire: Wire) -> Iterator[Bench]:
    """The bench, with its slices at the far end of the wire."""
    engine = make_engine(wire.url, "wired", transaction_timeout=bench.settings.transaction_timeout)
    yield replace(bench, engine=engine)
    engine.dispose()


PAGES = [item(0), item(1)], [item(2), item(1, price="7"), item(3, price=None)]


def two_pages(asked: list[int] | None = None) -> Source:
    return canned(*PAGES, name="two", before=(asked if asked is not None else []).append)


def two_served_pages(server: HTTPServer, name: str) -> Source:
    """Of an upstream, so that its calls are counted and its answers remembered: all that a slice does with Postgres."""

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        first = window.cursor["next"] if window.cursor and window.cursor["run"] == window.run else 0
        for number in range(first, len(PAGES)):
            yield Page.of(http.get(f"/{number}"), {"run": window.run, "next": number + 1})

    upstreams = {"free": Upstream(server.url_for("").rstrip("/"))}
    return replace(two_pages(), name=name, fetch=fetch, upstreams=upstreams)


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1") as server:
        for number, page in enumerate(PAGES):
            server.expect_request(f"/{number}").respond_with_json(page)
        yield server


def slice_as_a_worker_does(bench: Bench, run: uuid.UUID, **settings: Any) -> None:
    """Work on a run for one slice; whatever happens to that, the worker lives."""
    try:
        claim = claim_run(bench.engine, run)
        if claim is not None:
            work_on(bench.engine, replace(bench.settings, **settings), claim)
    except (ClaimLost, LeaseLost, DBAPIError):
        pass


def finish(bench: Bench, run: uuid.UUID) -> None:
    """What time and other slices do for a run, until it has ended."""
    for _ in range(3):
        if bench.run(run)["status"] not in ("queued", "running", "waiting"):
            return
        bench.let_leases_run_out()
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        slice_as_a_worker_does(bench, run)


def check(bench: Bench, run: uuid.UUID) -> None:
    """Nothing is lost, nothing is doubled, nothing is left held."""
    row = bench.run(run)
    assert row["status"] == "succeeded", row
    assert dict(bench.rows(OUTCOME, run=run, source=row["source"])[0]) == UNDISTURBED, row["source"]


def cut_at_every_statement(
    bench: Bench,
    wired: Bench,
    wire: Wire,
    source: Callable[[str], Source],
    places: Iterable[int],
    *,
    answered: bool,
    for_good: bool,
) -> int:
    """A run for each place in a slice's statements, its connection cut there; returns how many there were."""
    slice_as_a_worker_does(wired, bench.request(source("undisturbed")))
    cuts = 0
    for at in places:
        run = bench.request(source(f"cut_at_{at}"))
        wire.cut(at, answered=answered, for_good=for_good)
        # Tried again in place for 25 ms: enough for a moment, and not too much of a long outage.
        slice_as_a_worker_does(wired, run, transaction_timeout=0.05)
        came_so_far = wire.struck
        wire.heal()
        finish(bench, run)
        check(bench, run)
        if not came_so_far:
            break
        cuts += 1
    assert not came_so_far
    loaded = bench.rows(LOADED)
    assert len(loaded) == cuts + 2
    assert len({row["content"] for row in loaded}) == 1
    return cuts


@pytest.mark.parametrize(
    ("first", "answered", "for_good"), [(1, False, False), (4, True, False), (7, False, True), (10, True, True)]
)
def test_a_connection_cut_at_any_statement_of_a_slice_loses_and_doubles_nothing(
    bench: Bench, wired: Bench, wire: Wire, server: HTTPServer, first: int, answered: bool, for_good: bool
) -> None:
    """Every thirteenth statement here, each kind of cut at other ones; the fault suite makes each at every one."""
    places = range(1, 1000) if "EVERY_STATEMENT" in os.environ else range(first, 1000, 13)
    source = partial(two_served_pages, server)
    cuts = cut_at_every_statement(bench, wired, wire, source, places, answered=answered, for_good=for_good)
    sys.stdout.write(f"\ncuts: {cuts}\n")
    assert cuts > 8


def test_a_commit_whose_answer_got_lost_is_known_to_have_happened(bench: Bench, wired: Bench, wire: Wire) -> None:
    asked: list[int] = []
    run = bench.request(two_pages(asked=asked))
    wire.cut(1, since=LAST_OF_A_PAGE, answered=True)
    slice_as_a_worker_does(wired, run)
    assert wire.struck
    assert (asked, bench.run(run)["claims"]) == ([0, 1], 1)
    check(bench, run)


def test_a_commit_that_never_arrived_is_made_good_in_place(bench: Bench, wired: Bench, wire: Wire) -> None:
    asked: list[int] = []
    run = bench.request(two_pages(asked=asked))
    wire.cut(1, since=LAST_OF_A_PAGE)
    slice_as_a_worker_does(wired, run)
    assert wire.struck
    assert (asked, bench.run(run)["claims"]) == ([0, 1], 1)
    check(bench, run)


def test_a_session_killed_between_two_pages_costs_the_slice_nothing(bench: Bench, wired: Bench) -> None:
    whole = two_pages()

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for page in whole.fetch(window, http):
            sessions = "FROM pg_stat_activity WHERE application_name = 'kasparro-wired'"
            assert bench.rows(f"SELECT pg_terminate_backend(pid, 1000) {sessions}")
            yield page

    run = bench.request(replace(whole, fetch=fetch))
    slice_as_a_worker_does(wired, run)
    assert (bench.run(run)["claims"], bench.run(run)["waits"]) == (1, 0)
    check(bench, run)


@pytest.mark.parametrize("pages_before", [1, 2])
def test_a_slice_does_not_go_on_where_postgres_has_lost_what_it_committed(bench: Bench, pages_before: int) -> None:
    """As after a failover to a standby that was behind: what the slice knows of its cursor is of another world."""
    whole = two_pages()

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        pages = whole.fetch(window, http)
        yield from islice(pages, pages_before)
        if bench.run(run)["claims"] == 1:
            bench.rows("DELETE FROM pages WHERE seq = :last", last=pages_before - 1)
            bench.rows("UPDATE checkpoints SET version = version - 1, cursor = CAST(:cursor AS jsonb)", cursor=older)
        yield from pages

    run = bench.request(replace(whole, fetch=fetch))
    older = None if pages_before == 1 else f'{{"run": "{run}", "next": 1}}'
    slice_as_a_worker_does(bench, run)
    assert bench.run(run)["status"] == "running"
    finish(bench, run)
    row = bench.rows(OUTCOME, run=run, source="two")[0]
    assert (bench.run(run)["status"], row["pages"], row["version"], row["fetched"]) == ("succeeded", 2, 2, 5)
