"""What was kept is read again with today's mapping: without a network, once, and in the order it came in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine

from sources.contract import Page
from tasks.runs.parameters import ReplayParameters
from tests.content import content_hash
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed, feed_source
from tests.tasks.pipeline.test_slice import counters
from tests.upstreams import FETCHED, canned, item

Content = Callable[[Engine], str]

NOWHERE = "http://127.0.0.1:9"

LATER = FETCHED + timedelta(hours=1)


def in_euros(it: Mapping[str, Any]) -> Mapping[str, Any]:
    """A broken mapping: of no item it finds the price."""
    return {**it, "price": it.get("price_eur")}


def without_cap(it: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in it.items() if name != "cap"}


def quarantined(bench: Bench) -> int:
    return int(bench.one("SELECT count(*) FROM rejects WHERE state = 'quarantined'"))


def test_a_whole_source_is_as_on_the_day_it_came(bench: Bench, httpserver: HTTPServer, content: Content) -> None:
    feed = Feed(httpserver, [[item(0, price="1"), item(1)], [item(2), {"no": "item"}]])
    bench.ingest(feed.source())
    bench.ingest(feed.source())  # nothing new: 304, or the body that is known
    feed.pages = [[item(0, price="2"), item(1, observed_at=LATER.isoformat())], [item(2)]]
    bench.ingest(feed.source())
    as_it_came = (
        content(bench.engine),
        bench.rows("SELECT listing_id, observed_at, fetched_at FROM quotes ORDER BY 1, 2"),
    )
    bench.rows("TRUNCATE quotes, latest_quotes")
    asked = len(feed.asked)
    run = bench.ingest(feed_source(NOWHERE), replay=ReplayParameters())
    assert (run["kind"], run["status"]) == ("replay", "partial")
    again = content(bench.engine), bench.rows("SELECT listing_id, observed_at, fetched_at FROM quotes ORDER BY 1, 2")
    assert again == as_it_came
    assert len(feed.asked) == asked
    assert bench.one("SELECT cursor->>'next' FROM checkpoints WHERE partition = ''") is None, "the live cursor moved"


def test_what_was_replayed_is_not_replayed_again(bench: Bench) -> None:
    source = canned([item(0)], [item(1)])
    bench.ingest(source)
    for _ in range(2):
        run = bench.ingest(source, replay=ReplayParameters())
        assert counters(bench, run["id"]) == (2, 0, 0, 2, 0, 0)


def test_a_thousand_rejects_of_a_broken_mapping_come_in_once_it_is_mended(bench: Bench) -> None:
    pages = [[item(number, price=str(number + 1)) for number in range(at, at + 250)] for at in range(0, 1000, 250)]
    broken = bench.ingest(canned(*pages, normalize=in_euros))
    assert (broken["status"], quarantined(bench)) == ("failed", 1000)
    mended = canned(*pages)
    run = bench.ingest(mended, replay=ReplayParameters(rejected=True))
    assert run["status"] == "succeeded"
    assert counters(bench, run["id"]) == (1000, 1000, 0, 0, 0, 0)
    assert quarantined(bench) == 0
    assert bench.one("SELECT count(*) FROM rejects WHERE state = 'replayed' AND replayed_at IS NOT NULL") == 1000
    assert bench.one("SELECT count(*) FROM quotes") == 1000
    once = content_hash(bench.engine)
    again = bench.ingest(mended, replay=ReplayParameters(rejected=True))
    assert (again["status"], bench.one("SELECT count(*) FROM pages WHERE run = :run", run=again["id"])) == (
        "succeeded",
        0,
    )
    bench.ingest(mended, replay=ReplayParameters())
    assert content_hash(bench.engine) == once


def test_what_still_fails_keeps_its_place(bench: Bench) -> None:
    page = [item(0), item(1, price="much"), item(2)]
    bench.ingest(canned(page, normalize=in_euros))
    before = bench.rows("SELECT * FROM rejects WHERE item_index = 1")[0]
    run = bench.ingest(canned(page), replay=ReplayParameters(rejected=True))
    assert counters(bench, run["id"]) == (3, 2, 0, 0, 0, 1)
    states = [row["state"] for row in bench.rows("SELECT state FROM rejects ORDER BY item_index")]
    assert states == ["replayed", "quarantined", "replayed"]
    after = bench.rows("SELECT * FROM rejects WHERE item_index = 1")[0]
    assert (after["rejected_at"], after["replayed_at"]) == (before["rejected_at"], None)
    assert after["reasons"][0]["code"] == "not_a_number"
    # What passed is refused again once the mapping is broken again.
    bench.ingest(canned(page, normalize=in_euros), replay=ReplayParameters())
    assert quarantined(bench) == 3


@pytest.mark.parametrize(
    ("wanted", "fetched"),
    [
        (ReplayParameters(), 4),
        (ReplayParameters(rejected=True), 3),
        (ReplayParameters(rejected=True, code="no_price"), 1),
        (ReplayParameters(rejected=True, field="price", code="not_a_number"), 2),
        (ReplayParameters(rejected=True, code="no_symbol"), 0),
        (ReplayParameters(fetched_from=LATER), 2),
        (ReplayParameters(fetched_to=LATER), 2),
    ],
)
def test_the_pages_that_are_asked_for_are_read(bench: Bench, wanted: ReplayParameters, fetched: int) -> None:
    bench.ingest(canned([item(0)], [item(1, price=None)]))
    bench.ingest(canned([item(2), item(3, price="much")], fetched_at=LATER))
    run = bench.ingest(canned(), replay=wanted)
    assert bench.one("SELECT coalesce(sum(fetched), 0) FROM pages WHERE run = :run", run=run["id"]) == fetched


def test_the_pages_of_one_run_or_one_body_are_read(bench: Bench) -> None:
    first = bench.ingest(canned([item(0)], [item(1), item(2)]))
    bench.ingest(canned([item(3)]))
    of_run = bench.ingest(canned(), replay=ReplayParameters(run=first["id"]))
    assert counters(bench, of_run["id"])[0] == 3
    body = bench.one("SELECT encode(body_digest, 'hex') FROM pages WHERE fetched = 2 LIMIT 1")
    of_body = bench.ingest(canned(), replay=ReplayParameters(body=body))
    assert counters(bench, of_body["id"])[0] == 2


def test_every_page_of_a_mended_body_comes_in(bench: Bench) -> None:
    """Of a body without times of its own, each page is a quote of its own."""
    untimed = {name: value for name, value in item(0).items() if name != "observed_at"}
    for fetched_at in (FETCHED, LATER):
        bench.ingest(canned([untimed], fetched_at=fetched_at, normalize=in_euros))
    parse = canned().parse

    def timed(page: Page) -> list[Any]:
        return [{**it, "observed_at": page.fetched_at} for it in parse(page)]

    bench.ingest(canned(parse=timed), replay=ReplayParameters(rejected=True))
    assert [row["observed_at"] for row in bench.rows("SELECT observed_at FROM quotes ORDER BY 1")] == [FETCHED, LATER]


def test_an_old_page_takes_nothing_back(bench: Bench) -> None:
    bench.ingest(canned([item(0, price="1", name="Old", symbol="OLD")]))
    bench.ingest(canned([item(0, price="2", name="New", symbol="NEW")], fetched_at=LATER))
    now = content_hash(bench.engine)
    old = bench.one("SELECT run FROM pages ORDER BY committed_at LIMIT 1")
    run = bench.ingest(canned(), replay=ReplayParameters(run=old))
    assert counters(bench, run["id"]) == (1, 0, 0, 1, 0, 0)
    assert content_hash(bench.engine) == now


def test_what_a_later_page_confirmed_stands(bench: Bench) -> None:
    """A quote that comes again unchanged keeps the time at which it was first fetched."""
    editions = [
        (FETCHED, "10"),
        (LATER, "11,0"),
        (LATER + timedelta(hours=1), "10"),
        (LATER + timedelta(hours=2), "10.0"),
    ]
    for fetched_at, price in editions:
        bench.ingest(canned([item(0, price=price)], [item(1)], fetched_at=fetched_at))

    def mended(it: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**it, "price": it["price"].replace(",", ".")}

    run = bench.request(canned(normalize=mended), replay=ReplayParameters(rejected=True))
    while (row := bench.slice(run, task_slice=0))["status"] == "queued":
        pass
    assert row["status"] == "succeeded"
    # The one that was mended, and those after it that speak of the same time.
    assert bench.one("SELECT count(*) FROM pages WHERE run = :run", run=run) == 6
    assert bench.one("SELECT price FROM quotes JOIN listings ON id = listing_id WHERE source_asset_id = 'coin-0'") == 10


def test_what_a_replay_rejected_is_replayed_as_well(bench: Bench) -> None:
    bench.ingest(canned([item(0), item(1)]))
    broken = bench.ingest(canned(normalize=in_euros), replay=ReplayParameters())
    assert quarantined(bench) == 2
    for wanted in (ReplayParameters(rejected=True, run=broken["id"]), ReplayParameters(rejected=True)):
        run = bench.ingest(canned(), replay=wanted)
        assert counters(bench, run["id"])[0] == 2 if wanted.run else True
    assert quarantined(bench) == 0


def test_what_a_parser_did_not_see_then_is_replayed_each_time(bench: Bench) -> None:
    bench.ingest(canned([item(0)], parse=lambda _: []))
    for _ in range(2):
        bench.rows("TRUNCATE quotes, latest_quotes")
        run = bench.ingest(canned(), replay=ReplayParameters())
        assert counters(bench, run["id"])[:2] == (1, 1)


def test_a_mapping_that_sees_more_corrects_what_it_reads_again(bench: Bench) -> None:
    page = [item(0, cap="7")]
    bench.ingest(canned(page, normalize=without_cap))
    run = bench.ingest(
        canned(normalize=lambda it: {**without_cap(it), "market_cap": it["cap"]}), replay=ReplayParameters()
    )
    assert counters(bench, run["id"]) == (1, 0, 1, 0, 0, 0)
    assert bench.one("SELECT market_cap FROM quotes") == 7


def test_a_replay_goes_on_where_its_slice_ended(bench: Bench) -> None:
    pages = [[item(number)] for number in range(5)]
    bench.ingest(canned(*pages))
    bench.rows("TRUNCATE quotes, latest_quotes")
    run = bench.request(canned(), replay=ReplayParameters())
    for number in range(5):
        row = bench.slice(run, task_slice=0)
        assert bench.one("SELECT count(*) FROM pages WHERE run = :run", run=run) == min(number + 1, 5)
    while row["status"] == "queued":
        row = bench.slice(run, task_slice=0)
    assert row["status"] == "succeeded"
    assert counters(bench, run) == (5, 5, 0, 0, 0, 0)


def test_a_dropped_body_is_left_out_and_none_at_all_is_an_error(bench: Bench) -> None:
    bench.ingest(canned([item(0)], [item(1)]))
    bench.rows("UPDATE raw_bodies SET body = NULL WHERE digest = (SELECT body_digest FROM pages WHERE seq = 0)")
    run = bench.ingest(canned(), replay=ReplayParameters())
    assert (run["status"], counters(bench, run["id"])[0]) == ("succeeded", 1)
    bench.rows("UPDATE raw_bodies SET body = NULL")
    run = bench.ingest(canned(), replay=ReplayParameters())
    assert (run["status"], run["error_code"]) == ("failed", "bodies_dropped")
    assert "2 of the 2 pages" in run["error_detail"]


def test_a_replay_that_fails_does_not_pause_what_is_live(bench: Bench) -> None:
    def parse(page: Page) -> list[Any]:
        raise AssertionError

    bench.ingest(canned([item(0)]))
    run = bench.request(canned(parse=parse), replay=ReplayParameters())
    bench.rows("UPDATE runs SET status = 'running', claims = 1, attempts = 99 WHERE id = :run", run=run)
    bench.let_leases_run_out()
    assert bench.run(run)["error_code"] == "poisoned"
    assert bench.one("SELECT paused_reason FROM sources WHERE name = 'canned'") is None


def test_a_source_may_not_name_the_partition_of_replays(bench: Bench) -> None:
    run = bench.ingest(canned([item()], partitions=["replay:"]))
    assert run["status"] == "failed"
    assert "replay:" in run["error_detail"]


def test_a_live_run_goes_on_beside_a_replay(bench: Bench) -> None:
    source = canned([item(0)])
    bench.ingest(source)
    replay = bench.request(source, replay=ReplayParameters())
    live = bench.request(source)
    assert bench.slice(live)["status"] == "succeeded"
    assert bench.slice(replay)["status"] == "succeeded"
