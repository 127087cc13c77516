"""A run whose pages lead nowhere waits, says so, and ends; one whose pages only look alike goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import RowMapping
from werkzeug import Request, Response

from sources.contract import Http, Page, Source, Window
from sources.http.json_body import read_json
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed
from tests.upstreams import canned, item


@pytest.fixture(scope="module")
def upstream() -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield server


@pytest.fixture
def feed(upstream: HTTPServer) -> Feed:
    upstream.clear()
    return Feed(upstream, [[item(0), item(1)], [item(2)]])


def until_ended(bench: Bench, source: Source, **settings: Any) -> RowMapping:
    """Slice after slice, without the waits between them."""
    run = bench.request(source)
    for _ in range(20):
        bench.rows("UPDATE runs SET next_attempt_at = NULL")
        if (row := bench.slice(run, **settings))["finished_at"]:
            return row
    raise AssertionError(f"the run goes on for ever: {dict(row)}")


def always(*items: Any) -> Any:
    return lambda number: Response(json.dumps(items), content_type="application/json")


# The same page for ever


@pytest.mark.parametrize("task_slice", [0, 20])
def test_the_same_answer_to_another_request_lets_the_run_wait_and_is_not_loaded(
    bench: Bench, feed: Feed, task_slice: float
) -> None:
    feed.before = lambda number: always(item(2))(number) if number > 1 else None
    run = bench.request(feed.source())
    for _ in range(3):
        row = bench.slice(run, task_slice=task_slice)
    assert row["status"] == "waiting"
    assert row["waiting_reason"].startswith("repeated_page: feed: the response to {")
    assert (feed.numbers, bench.one("SELECT count(*) FROM pages")) == ([1, 2, 3], 2)
    assert bench.one("SELECT cursor->>'next' FROM checkpoints") == "3"

    feed.before = lambda number: None
    bench.rows("UPDATE runs SET next_attempt_at = NULL")
    assert bench.slice(run)["status"] == "succeeded"
    assert (feed.numbers, bench.one("SELECT count(*) FROM quotes")) == ([1, 2, 3, 3], 3)


@pytest.mark.parametrize("task_slice", [0, 20])
def test_a_run_that_only_ever_gets_the_same_page_ends(bench: Bench, feed: Feed, task_slice: float) -> None:
    feed.before = always(item(0))
    ended = until_ended(bench, feed.source(), max_waits=3, task_slice=task_slice)
    assert (ended["status"], ended["error_code"]) == ("failed", "repeated_page")
    assert ended["error_detail"].endswith("gave up after 3 waits")
    assert feed.numbers == [1, 2, 2, 2, 2]


def test_also_where_the_upstream_says_that_its_other_page_did_not_change(bench: Bench, feed: Feed) -> None:
    bench.ingest(feed.source())
    feed.pages = [feed.pages[1]] * 9
    feed.asked.clear()
    run = bench.ingest(feed.source())
    assert run["waiting_reason"].startswith("repeated_page")
    assert [bool(condition) for condition in feed.conditions] == [True, True]
    assert bench.one("SELECT count(*) FROM pages WHERE run = :run", run=run["id"]) == 1


def test_a_page_of_nothing_but_rejects_is_no_other_either(bench: Bench, feed: Feed) -> None:
    feed.before = always(item(0, price="much"))
    assert bench.ingest(feed.source())["waiting_reason"].startswith("repeated_page")


def in_envelopes(upstream: HTTPServer, *answers: list[Any], **changes: Any) -> tuple[Source, list[int]]:
    """A source of an upstream that gives its answers in turn, whatever page is asked for, each with a time of its own.

    Gives also the numbers of the pages that were asked for.
    """
    upstream.clear()
    numbers: list[int] = []

    def answer(request: Request) -> Response:
        numbers.append(int(request.args["page"]))
        body = {"served": len(numbers), "items": answers[(len(numbers) - 1) % len(answers)]}
        return Response(json.dumps(body), content_type="application/json")

    upstream.expect_request("/all").respond_with_handler(answer)

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in range(window.cursor["next"] if window.cursor else 1, 20):
            yield Page.of(http.get("/all", {"page": number}), {"next": number + 1})

    declared = {"fetch": fetch, "parse": lambda page: read_json(page.body)["items"], **changes}
    return Feed(upstream, []).source(**declared), numbers


@pytest.mark.parametrize("task_slice", [0, 20])
def test_a_page_that_only_tells_another_time_is_no_other(bench: Bench, upstream: HTTPServer, task_slice: float) -> None:
    source, numbers = in_envelopes(upstream, [item(0), item(1, price="much")])
    ended = until_ended(bench, source, max_waits=2, task_slice=task_slice)
    assert (ended["status"], ended["error_code"], numbers) == ("failed", "repeated_page", [1, 2, 2, 2])
    assert bench.one("SELECT count(*) FROM raw_bodies") == 1


def test_nor_is_one_whose_items_stand_at_the_time_of_their_fetch(bench: Bench, upstream: HTTPServer) -> None:
    def parse(page: Page) -> Iterator[Any]:
        for it in read_json(page.body)["items"]:
            yield {**it, "observed_at": page.fetched_at}

    source, numbers = in_envelopes(upstream, [item(0)], parse=parse)
    assert until_ended(bench, source, max_waits=2)["error_code"] == "repeated_page"
    assert numbers == [1, 2, 2, 2]


def test_nor_are_those_of_caches_that_answer_in_turn(bench: Bench, upstream: HTTPServer) -> None:
    source, numbers = in_envelopes(upstream, [item(0), item(1)], [item(2)], [item(1), item(0)])
    assert bench.ingest(source)["waiting_reason"].startswith("repeated_page")
    assert numbers == [1, 2, 3]


def test_pages_that_differ_in_one_value_or_time_are_others(bench: Bench, upstream: HTTPServer) -> None:
    later = item(0, price="2", observed_at="2026-01-02T00:00:00+00:00")
    source, numbers = in_envelopes(upstream, [item(0)], [item(0, price="2")], [later], [later])
    assert bench.ingest(source)["waiting_reason"].startswith("repeated_page")
    assert (numbers, bench.one("SELECT count(*) FROM pages")) == ([1, 2, 3, 4], 3)


def test_pages_without_items_may_be_alike(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in (3, 4, 5):
            yield Page.of(http.get("/prices", {"page": number}), {"run": window.run, "done": number})

    run = bench.ingest(feed.source(fetch=fetch))
    assert (run["status"], bench.one("SELECT count(*) FROM pages")) == ("succeeded", 3)


def test_one_body_may_answer_two_requests_that_make_the_difference(bench: Bench, upstream: HTTPServer) -> None:
    """Two coins at one price, of an upstream that does not say again which it was asked for."""
    upstream.clear()
    upstream.expect_request("/price").respond_with_json({"usd": "1"})

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in range(3):
            yield Page.of(http.get("/price", {"coin": number}), {"run": window.run, "done": number})

    def parse(page: Page) -> Iterator[Any]:
        yield item(page.request["params"]["coin"], price=read_json(page.body)["usd"])

    run = bench.ingest(Feed(upstream, []).source(fetch=fetch, parse=parse))
    assert (run["status"], bench.one("SELECT count(*) FROM quotes")) == ("succeeded", 3)


@pytest.mark.parametrize("task_slice", [0, 20])
def test_a_file_may_hold_one_thing_twice(bench: Bench, task_slice: float) -> None:
    assert until_ended(bench, canned([item(0)], [item(0)]), task_slice=task_slice)["status"] == "succeeded"


def test_a_snapshot_may_begin_anew_within_its_run(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in (1, 2):
            yield Page.of(http.get("/prices", {"page": number}), {"began": window.now.isoformat(), "next": number})

    run = bench.request(feed.source(fetch=fetch))
    assert bench.slice(run, task_slice=0)["status"] == "queued"
    assert (bench.slice(run)["status"], feed.numbers) == ("succeeded", [1, 1, 2])


# A cursor that stays


def test_an_upstream_that_always_names_the_same_next_page_ends_the_run(bench: Bench, upstream: HTTPServer) -> None:
    """Though each answer is another, so that only the cursor tells."""
    upstream.clear()
    tokens: list[str] = []

    def answer(request: Request) -> Response:
        tokens.append(request.args["token"])
        return Response(json.dumps({"items": [item(len(tokens))], "next": "t1"}))

    upstream.expect_request("/items").respond_with_handler(answer)

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        token = window.cursor["token"] if window.cursor else ""
        while token is not None:
            reply = http.get("/items", {"token": token})
            token = read_json(reply.body)["next"]
            yield Page.of(reply, {"token": token})

    source = Feed(upstream, []).source(fetch=fetch, parse=lambda page: read_json(page.body)["items"])
    ended = until_ended(bench, source, max_waits=2)
    assert (ended["status"], ended["error_code"]) == ("failed", "cursor_stuck")
    assert "does not advance" in ended["error_detail"]
    assert tokens == ["", "t1", "t1"] + ["t1", "t1"] * 2


@pytest.mark.parametrize("cursor", [None, {"always": "here"}], ids=["none", "one"])
def test_a_source_whose_slices_all_begin_at_the_same_place_ends(
    bench: Bench, feed: Feed, cursor: dict[str, str] | None
) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in (1, 2):
            yield Page.of(http.get("/prices", {"page": number}), cursor)

    ended = until_ended(bench, feed.source(fetch=fetch), max_waits=2, task_slice=0)
    assert (ended["status"], ended["error_code"]) == ("failed", "cursor_stuck")
    assert "did not move in a whole slice" in ended["error_detail"]
    assert feed.numbers == [1] * (3 if cursor is None else 4)  # the first slice moved it from nothing to here
    assert until_ended(bench, feed.source(fetch=fetch))["status"] == "succeeded"


def test_also_where_there_are_other_partitions_to_go_on_with(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        yield Page.of(http.get("/prices", {"page": 1, "of": window.partition}), None)

    source = feed.source(fetch=fetch, partitions=lambda: ("one", "other"))
    ended = until_ended(bench, source, max_waits=2, task_slice=0)
    assert (ended["status"], ended["error_code"], feed.numbers) == ("failed", "cursor_stuck", [1, 1, 1])


def test_a_source_without_a_cursor_may_ask_the_same_in_each_of_its_runs(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        yield Page.of(http.get("/prices", {"page": 1}), None)

    assert [bench.ingest(feed.source(fetch=fetch))["status"] for _ in range(2)] == ["succeeded"] * 2


def test_the_last_page_may_say_what_the_one_before_it_ended_with(bench: Bench, upstream: HTTPServer) -> None:
    """Asked from its newest item on, that included, an upstream with one item repeats it, and the cursor stays."""
    upstream.clear()
    upstream.expect_request("/since").respond_with_json([item(5)])

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for since in (0, 5):
            yield Page.of(http.get("/since", {"since": since}), {"since": 5})

    run = bench.ingest(Feed(upstream, []).source(fetch=fetch))
    assert (run["status"], bench.one("SELECT sum(unchanged) FROM pages")) == ("succeeded", 1)
