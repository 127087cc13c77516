"""Test that a slice loses and duplicates no row if its connection to Postgres breaks at any statement."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from pytest_httpserver import HTTPServer

from sources.contract import Http, Page, Source, Upstream, Window
from tests.tasks.conftest import Bench
from tests.tasks.pipeline.two_pages import PAGES, assert_loaded_once, finish, run_slice, two_pages
from tests.wire import Wire

LOADED = """
    SELECT l.source, string_agg(concat_ws(' ', source_asset_id, quote_currency, l.symbol, slug, q.observed_at, price,
                                          n.observed_at), ', ' ORDER BY source_asset_id, q.observed_at) AS content
      FROM quotes q JOIN listings l ON l.id = q.listing_id JOIN assets a ON a.id = l.asset
      JOIN latest_quotes n ON n.listing_id = l.id GROUP BY 1
"""


def two_served_pages(server: HTTPServer, name: str) -> Source:
    """Return a source with an upstream, so that a slice also counts its requests and stores validators."""

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


def cut_at_every_statement(
    bench: Bench,
    wired: Bench,
    wire: Wire,
    source: Callable[[str], Source],
    statements: Iterable[int],
    *,
    withhold_response: bool,
    refuse_others: bool,
) -> int:
    """Start a new run and cut its connection at each of these statements. Return the number of cuts."""
    run_slice(wired, bench.request(source("undisturbed")))
    cuts = 0
    for statement in statements:
        run = bench.request(source(f"cut_at_{statement}"))
        wire.cut(statement, withhold_response=withhold_response, refuse_others=refuse_others)
        # The slice retries for 25 ms. That covers short outages but not long ones.
        run_slice(wired, run, transaction_timeout=0.05)
        was_cut = wire.struck
        wire.heal()
        finish(bench, run)
        assert_loaded_once(bench, run)
        if not was_cut:
            break
        cuts += 1
    assert not was_cut, "the slice has more statements than were cut"
    loaded = bench.rows(LOADED)
    assert len(loaded) == cuts + 2
    assert len({row["content"] for row in loaded}) == 1
    return cuts


@pytest.mark.parametrize(
    ("first", "withhold_response", "refuse_others"),
    [(1, False, False), (4, True, False), (7, False, True), (10, True, True)],
)
def test_a_connection_cut_at_any_statement_loses_and_duplicates_no_row(
    bench: Bench, wired: Bench, wire: Wire, server: HTTPServer, first: int, withhold_response: bool, refuse_others: bool
) -> None:
    """Cut at every 13th statement. EVERY_STATEMENT, which the fault suite sets, cuts at every statement."""
    statements = range(1, 1000) if "EVERY_STATEMENT" in os.environ else range(first, 1000, 13)
    source = partial(two_served_pages, server)
    cuts = cut_at_every_statement(
        bench, wired, wire, source, statements, withhold_response=withhold_response, refuse_others=refuse_others
    )
    sys.stdout.write(f"\ncuts: {cuts}\n")
    assert cuts > 8


def test_a_slice_continues_after_its_session_is_terminated_between_two_pages(bench: Bench, wired: Bench) -> None:
    source = two_pages()

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for page in source.fetch(window, http):
            sessions = "FROM pg_stat_activity WHERE application_name = 'kasparro-wired'"
            assert bench.rows(f"SELECT pg_terminate_backend(pid, 1000) {sessions}")
            yield page

    run = bench.request(replace(source, fetch=fetch))
    run_slice(wired, run)
    assert (bench.run(run)["claims"], bench.run(run)["waits"]) == (1, 0)
    assert_loaded_once(bench, run)
