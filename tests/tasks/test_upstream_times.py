"""Test that unordered, repeated and future items are loaded or rejected exactly once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import RowMapping
from werkzeug import Request, Response

from sources.contract import Http, Page, Source, Window
from sources.http.json_body import json_list
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed, feed_source
from tests.upstreams import item

FAR = "2999-01-01T00:00:00+00:00"


@dataclass
class Timeline:
    """An upstream that returns up to `limit` items since the requested time, in no particular order."""

    server: HTTPServer
    items: list[dict[str, Any]]
    limit: int = 3
    since: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.expect_request("/since").respond_with_handler(self._respond)

    def _respond(self, request: Request) -> Response:
        self.since.append(request.args["since"])
        items = sorted(self.items, key=lambda item: item["observed_at"])
        selected = [item for item in items if item["observed_at"] >= request.args["since"]][: self.limit]
        return Response(json.dumps(selected[1::2] + selected[::2]), content_type="application/json")

    def source(self, **changes: Any) -> Source:
        return feed_source(self.server.url_for("").rstrip("/"), **{"fetch": fetch_since, **changes})


def fetch_since(window: Window, http: Http) -> Iterator[Page]:
    """Fetch all items since the cursor, as recommended in docs/howto/add-http-source.md."""
    since = window.cursor["since"] if window.cursor else at(1)
    while True:
        reply = http.get("/since", {"since": since})
        times = [item["observed_at"] for item in json_list(reply.body)]
        newest = max((time for time in times if datetime.fromisoformat(time) <= window.latest), default=since)
        yield Page.of(reply, {"since": newest})
        if newest == since:
            return
        since = newest


def at(minute: int) -> str:
    return f"2026-01-01T00:{minute:02}:00+00:00"


@pytest.fixture
def timeline(upstream: HTTPServer) -> Timeline:
    upstream.clear()
    return Timeline(upstream, [item(number, observed_at=at(number)) for number in range(1, 6)])


COUNTERS = """
    SELECT sum(fetched) AS fetched, sum(inserted) AS inserted, sum(updated) AS updated, sum(unchanged) AS unchanged,
           sum(deduplicated) AS deduplicated, sum(rejected) AS rejected
      FROM pages WHERE run = :run
"""


def counters(bench: Bench, run: RowMapping) -> dict[str, int]:
    """Return the nonzero counters of the run."""
    return {name: int(count) for name, count in bench.rows(COUNTERS, run=run["id"])[0].items() if count}


# A time in the future


def test_an_item_dated_2999_is_rejected_and_later_items_are_loaded(bench: Bench, timeline: Timeline) -> None:
    timeline.items.append(item(9, observed_at=FAR))
    run = bench.ingest(timeline.source())
    assert run["status"] == "partial"
    assert {row["code"] for row in bench.rows("SELECT reasons->0->>'code' AS code FROM rejects")} == {"in_future"}
    assert bench.one("SELECT cursor->>'since' FROM checkpoints") == at(5)
    assert bench.one("SELECT count(*) FROM quotes") == 5

    timeline.items.append(item(6, observed_at=at(6)))
    bench.ingest(timeline.source())
    assert bench.one("SELECT count(*) FROM quotes") == 6
    assert bench.one("SELECT cursor->>'since' FROM checkpoints") == at(6)


@pytest.mark.parametrize("shape", [lambda time: {"since": time}, lambda time: {"of": ["USD", {"since": time}]}])
def test_a_cursor_moved_by_a_future_item_fails_the_run_before_it_is_stored(
    bench: Bench, timeline: Timeline, shape: Any
) -> None:
    def careless_fetch(window: Window, http: Http) -> Iterator[Page]:
        reply = http.get("/since", {"since": at(1)})
        yield Page.of(reply, shape(max(item["observed_at"] for item in json_list(reply.body))))

    source = timeline.source(fetch=careless_fetch)
    assert bench.ingest(source)["status"] == "succeeded"
    timeline.items = [item(4, observed_at=at(4)), item(9, observed_at=FAR)]
    run = bench.ingest(source)
    assert (run["status"], run["error_code"]) == ("failed", "cursor_in_future")
    assert FAR in run["error_detail"]
    assert "window.latest" in run["error_detail"]
    assert bench.one("SELECT cursor FROM checkpoints") == shape(at(3))
    assert bench.one("SELECT count(*) FROM quotes") == 3


def test_a_cursor_may_contain_a_future_time_that_does_not_come_from_an_item(bench: Bench, timeline: Timeline) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        yield Page.of(http.get("/since", {"since": at(1)}), {"until": FAR})

    assert bench.ingest(timeline.source(fetch=fetch))["status"] == "succeeded"


def test_the_latest_allowed_time_is_the_database_time_plus_the_clock_skew(bench: Bench, timeline: Timeline) -> None:
    windows: list[Window] = []

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        windows.append(window)
        return iter(())

    bench.slice(bench.request(timeline.source(fetch=fetch)), clock_skew=700)
    assert (windows[0].latest - windows[0].now).total_seconds() == 700


# Order, equal times and repeated ids


def test_items_out_of_order_are_all_loaded_and_the_newest_quote_is_correct(bench: Bench, timeline: Timeline) -> None:
    for number in (4, 2, 5, 1, 3):
        timeline.items.append(item(0, observed_at=at(number), price=str(number)))
    timeline.limit = 100
    run = bench.ingest(timeline.source())
    assert (run["status"], counters(bench, run)) == ("succeeded", {"fetched": 12, "inserted": 10, "unchanged": 2})
    newest = """
        SELECT price FROM latest_quotes JOIN quotes USING (listing_id, observed_at) JOIN listings ON id = listing_id
         WHERE source_asset_id = 'coin-0'
    """
    assert bench.one(newest) == 5
    assert bench.one("SELECT cursor->>'since' FROM checkpoints") == at(5)


def test_items_with_equal_times_on_two_pages_are_all_loaded(bench: Bench, timeline: Timeline) -> None:
    timeline.items = [item(number, observed_at=at(minute)) for number, minute in enumerate((1, 2, 3, 3, 4))]
    run = bench.ingest(timeline.source())
    assert timeline.since == [at(1), at(3), at(4)]
    assert (run["status"], counters(bench, run)) == ("succeeded", {"fetched": 7, "inserted": 5, "unchanged": 2})


@pytest.mark.parametrize(
    ("again", "counted"),
    [
        (item(0), {"fetched": 4, "inserted": 3, "unchanged": 1}),
        (item(0, rank=2), {"fetched": 4, "inserted": 3, "updated": 1}),
        (item(0, observed_at=at(1)), {"fetched": 4, "inserted": 4}),
        (item(2), {"fetched": 4, "inserted": 3, "deduplicated": 1}),
    ],
    ids=["the same", "another value", "another time", "within a page"],
)
def test_a_repeated_id_is_counted_by_its_outcome(
    bench: Bench, upstream: HTTPServer, again: dict[str, Any], counted: dict[str, int]
) -> None:
    upstream.clear()
    run = bench.ingest(Feed(upstream, [[item(0), item(1)], [item(2), again]]).source())
    assert (run["status"], counters(bench, run)) == ("succeeded", counted)
    assert bench.one("SELECT count(*) FROM quotes") == counted["inserted"]
