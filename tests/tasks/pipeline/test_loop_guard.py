"""Test that a run with repeated pages or a stuck cursor waits and then fails, without false alarms."""

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


@pytest.fixture
def feed(upstream: HTTPServer) -> Feed:
    upstream.clear()
    return Feed(upstream, [[item(0), item(1)], [item(2)]])


def work_until_ended(bench: Bench, source: Source, **settings: Any) -> RowMapping:
    """Work on a run slice by slice, without its waits, until it ends. Return its row."""
    run = bench.request(source)
    for _ in range(20):
        bench.rows("UPDATE runs SET next_attempt_at = NULL")
        if (row := bench.slice(run, **settings))["finished_at"]:
            return row
    raise AssertionError(f"the run does not end: {dict(row)}")


def respond_with(*items: Any) -> Any:
    """Return a handler that returns these items for every request."""
    return lambda number: Response(json.dumps(items), content_type="application/json")


# Repeated pages


@pytest.mark.parametrize("task_slice", [0, 20])
def test_a_repeated_page_is_not_loaded_and_makes_the_run_wait(bench: Bench, feed: Feed, task_slice: float) -> None:
    feed.before = lambda number: respond_with(item(2))(number) if number > 1 else None
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
def test_a_run_that_receives_only_repeated_pages_fails(bench: Bench, feed: Feed, task_slice: float) -> None:
    feed.before = respond_with(item(0))
    ended = work_until_ended(bench, feed.source(), max_waits=3, task_slice=task_slice)
    assert (ended["status"], ended["error_code"]) == ("failed", "repeated_page")
    assert ended["error_detail"].endswith("gave up after 3 waits")
    assert feed.numbers == [1, 2, 2, 2, 2]


def test_a_repeated_page_is_detected_when_the_upstream_returns_304(bench: Bench, feed: Feed) -> None:
    bench.ingest(feed.source())
    feed.pages = [feed.pages[1]] * 9
    feed.requests.clear()
    run = bench.ingest(feed.source())
    assert run["waiting_reason"].startswith("repeated_page")
    assert [bool(condition) for condition in feed.conditions] == [True, True]
    assert bench.one("SELECT count(*) FROM pages WHERE run = :run", run=run["id"]) == 1


def test_a_repeated_page_of_rejects_is_detected(bench: Bench, feed: Feed) -> None:
    feed.before = respond_with(item(0, price="much"))
    assert bench.ingest(feed.source())["waiting_reason"].startswith("repeated_page")


def serve_in_envelopes(upstream: HTTPServer, *item_lists: list[Any], **changes: Any) -> tuple[Source, list[int]]:
    """Serve these lists of items in turn for any requested page, each in an envelope with another number.

    Return the source, and the list that collects the numbers of the requested pages.
    """
    upstream.clear()
    numbers: list[int] = []

    def respond(request: Request) -> Response:
        numbers.append(int(request.args["page"]))
        body = {"served": len(numbers), "items": item_lists[(len(numbers) - 1) % len(item_lists)]}
        return Response(json.dumps(body), content_type="application/json")

    upstream.expect_request("/all").respond_with_handler(respond)

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in range(window.cursor["next"] if window.cursor else 1, 20):
            yield Page.of(http.get("/all", {"page": number}), {"next": number + 1})

    declared = {"fetch": fetch, "parse": lambda page: read_json(page.body)["items"], **changes}
    return Feed(upstream, []).source(**declared), numbers


@pytest.mark.parametrize("task_slice", [0, 20])
def test_a_page_with_a_new_envelope_but_the_same_items_is_a_repetition(
    bench: Bench, upstream: HTTPServer, task_slice: float
) -> None:
    source, numbers = serve_in_envelopes(upstream, [item(0), item(1, price="much")])
    ended = work_until_ended(bench, source, max_waits=2, task_slice=task_slice)
    assert (ended["status"], ended["error_code"], numbers) == ("failed", "repeated_page", [1, 2, 2, 2])
    assert bench.one("SELECT count(*) FROM raw_bodies") == 1


def test_a_repetition_is_detected_if_items_are_timestamped_with_the_fetch_time(
    bench: Bench, upstream: HTTPServer
) -> None:
    def parse(page: Page) -> Iterator[Any]:
        for fields in read_json(page.body)["items"]:
            yield {**fields, "observed_at": page.fetched_at}

    source, numbers = serve_in_envelopes(upstream, [item(0)], parse=parse)
    assert work_until_ended(bench, source, max_waits=2)["error_code"] == "repeated_page"
    assert numbers == [1, 2, 2, 2]


def test_an_earlier_page_with_reordered_items_is_a_repetition(bench: Bench, upstream: HTTPServer) -> None:
    source, numbers = serve_in_envelopes(upstream, [item(0), item(1)], [item(2)], [item(1), item(0)])
    assert bench.ingest(source)["waiting_reason"].startswith("repeated_page")
    assert numbers == [1, 2, 3]


def test_pages_that_differ_in_one_value_or_one_time_are_not_a_repetition(bench: Bench, upstream: HTTPServer) -> None:
    later = item(0, price="2", observed_at="2026-01-02T00:00:00+00:00")
    source, numbers = serve_in_envelopes(upstream, [item(0)], [item(0, price="2")], [later], [later])
    assert bench.ingest(source)["waiting_reason"].startswith("repeated_page")
    assert (numbers, bench.one("SELECT count(*) FROM pages")) == ([1, 2, 3, 4], 3)


def test_pages_without_items_are_not_a_repetition(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in (3, 4, 5):
            yield Page.of(http.get("/prices", {"page": number}), {"run": window.run, "done": number})

    run = bench.ingest(feed.source(fetch=fetch))
    assert (run["status"], bench.one("SELECT count(*) FROM pages")) == ("succeeded", 3)


def test_equal_bodies_are_not_a_repetition_if_their_items_depend_on_the_request(
    bench: Bench, upstream: HTTPServer
) -> None:
    """Several coins have the same price, and the body does not name the requested coin."""
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
def test_two_blocks_of_a_file_may_have_the_same_content(bench: Bench, task_slice: float) -> None:
    assert work_until_ended(bench, canned([item(0)], [item(0)]), task_slice=task_slice)["status"] == "succeeded"


def test_a_later_slice_may_restart_the_snapshot(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in (1, 2):
            yield Page.of(http.get("/prices", {"page": number}), {"started": window.now.isoformat(), "next": number})

    run = bench.request(feed.source(fetch=fetch))
    assert bench.slice(run, task_slice=0)["status"] == "queued"
    assert (bench.slice(run)["status"], feed.numbers) == ("succeeded", [1, 1, 2])


# Cursors that do not advance


def test_a_run_that_always_requests_the_same_page_fails_even_if_the_responses_differ(
    bench: Bench, upstream: HTTPServer
) -> None:
    upstream.clear()
    tokens: list[str] = []

    def respond(request: Request) -> Response:
        tokens.append(request.args["token"])
        return Response(json.dumps({"items": [item(len(tokens))], "next": "t1"}))

    upstream.expect_request("/items").respond_with_handler(respond)

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        token = window.cursor["token"] if window.cursor else ""
        while token is not None:
            reply = http.get("/items", {"token": token})
            token = read_json(reply.body)["next"]
            yield Page.of(reply, {"token": token})

    source = Feed(upstream, []).source(fetch=fetch, parse=lambda page: read_json(page.body)["items"])
    ended = work_until_ended(bench, source, max_waits=2)
    assert (ended["status"], ended["error_code"]) == ("failed", "cursor_stuck")
    assert "does not advance" in ended["error_detail"]
    assert tokens == ["", "t1", "t1"] + ["t1", "t1"] * 2


@pytest.mark.parametrize("cursor", [None, {"always": "here"}], ids=["none", "constant"])
def test_a_run_fails_if_all_its_slices_start_at_the_same_cursor(
    bench: Bench, feed: Feed, cursor: dict[str, str] | None
) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number in (1, 2):
            yield Page.of(http.get("/prices", {"page": number}), cursor)

    ended = work_until_ended(bench, feed.source(fetch=fetch), max_waits=2, task_slice=0)
    assert (ended["status"], ended["error_code"]) == ("failed", "cursor_stuck")
    assert "did not move in a whole slice" in ended["error_detail"]
    assert feed.numbers == [1] * (3 if cursor is None else 4)  # The first slice changes the cursor from None.
    assert work_until_ended(bench, feed.source(fetch=fetch))["status"] == "succeeded"


def test_a_stuck_partition_fails_the_run_even_if_other_partitions_remain(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        yield Page.of(http.get("/prices", {"page": 1, "partition": window.partition}), None)

    source = feed.source(fetch=fetch, partitions=lambda: ("first", "second"))
    ended = work_until_ended(bench, source, max_waits=2, task_slice=0)
    assert (ended["status"], ended["error_code"], feed.numbers) == ("failed", "cursor_stuck", [1, 1, 1])


def test_a_source_without_a_cursor_may_repeat_its_request_in_each_run(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        yield Page.of(http.get("/prices", {"page": 1}), None)

    assert [bench.ingest(feed.source(fetch=fetch))["status"] for _ in range(2)] == ["succeeded"] * 2


def test_the_last_page_may_repeat_the_newest_item_if_the_cursor_is_unchanged(
    bench: Bench, upstream: HTTPServer
) -> None:
    """An upstream may include the item at the cursor. It then repeats its newest item without moving the cursor."""
    upstream.clear()
    upstream.expect_request("/since").respond_with_json([item(5)])

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for since in (0, 5):
            yield Page.of(http.get("/since", {"since": since}), {"since": 5})

    run = bench.ingest(Feed(upstream, []).source(fetch=fetch))
    assert (run["status"], bench.one("SELECT sum(unchanged) FROM pages")) == ("succeeded", 1)
