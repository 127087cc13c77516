"""Test that a replay reads stored pages again with the current mapping, without any request to the upstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from pytest_httpserver import HTTPServer
from sqlalchemy import Engine

from sources.contract import Page
from tasks.runs.parameters import ReplayParameters
from tests.content import content_hash
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.tasks.feed import Feed, feed_source
from tests.upstreams import FETCHED, canned, item

Content = Callable[[Engine], str]

UNREACHABLE = "http://127.0.0.1:9"

LATER = FETCHED + timedelta(hours=1)


def in_euros(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Simulate a broken mapping that reads the price from a missing field."""
    return {**fields, "price": fields.get("price_eur")}


def without_cap(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in fields.items() if name != "cap"}


def quarantined(bench: Bench) -> int:
    return int(bench.one("SELECT count(*) FROM rejects WHERE state = 'quarantined'"))


def test_a_replay_of_a_whole_source_restores_all_its_quotes(
    bench: Bench, httpserver: HTTPServer, content: Content
) -> None:
    feed = Feed(httpserver, [[item(0, price="1"), item(1)], [item(2), {"no": "item"}]])
    bench.ingest(feed.source())
    bench.ingest(feed.source())  # All pages are unchanged.
    feed.pages = [[item(0, price="2"), item(1, observed_at=LATER.isoformat())], [item(2)]]
    bench.ingest(feed.source())
    loaded = (
        content(bench.engine),
        bench.rows("SELECT listing_id, observed_at, fetched_at FROM quotes ORDER BY 1, 2"),
    )
    bench.rows("TRUNCATE quotes, latest_quotes")
    requests = len(feed.requests)
    run = bench.ingest(feed_source(UNREACHABLE), replay=ReplayParameters())
    assert (run["kind"], run["status"]) == ("replay", "partial")
    replayed = content(bench.engine), bench.rows("SELECT listing_id, observed_at, fetched_at FROM quotes ORDER BY 1, 2")
    assert replayed == loaded
    assert len(feed.requests) == requests
    assert bench.one("SELECT cursor->>'next' FROM checkpoints WHERE partition = ''") is None, "the live cursor moved"


def test_a_second_replay_changes_nothing_and_ignores_the_pages_of_the_first_replay(bench: Bench) -> None:
    source = canned([item(0)], [item(1)])
    bench.ingest(source)
    for _ in range(2):
        run = bench.ingest(source, replay=ReplayParameters())
        assert counters(bench, run["id"]) == (2, 0, 0, 2, 0, 0)


def test_a_replay_with_a_corrected_mapping_loads_a_thousand_rejects(bench: Bench) -> None:
    pages = [[item(number, price=str(number + 1)) for number in range(at, at + 250)] for at in range(0, 1000, 250)]
    broken = bench.ingest(canned(*pages, normalize=in_euros))
    assert (broken["status"], quarantined(bench)) == ("failed", 1000)
    corrected = canned(*pages)
    run = bench.ingest(corrected, replay=ReplayParameters(rejected=True))
    assert run["status"] == "succeeded"
    assert counters(bench, run["id"]) == (1000, 1000, 0, 0, 0, 0)
    assert quarantined(bench) == 0
    assert bench.one("SELECT count(*) FROM rejects WHERE state = 'replayed' AND replayed_at IS NOT NULL") == 1000
    assert bench.one("SELECT count(*) FROM quotes") == 1000
    loaded = content_hash(bench.engine)
    again = bench.ingest(corrected, replay=ReplayParameters(rejected=True))
    assert (again["status"], bench.one("SELECT count(*) FROM pages WHERE run = :run", run=again["id"])) == (
        "succeeded",
        0,
    )
    bench.ingest(corrected, replay=ReplayParameters())
    assert content_hash(bench.engine) == loaded


def test_a_reject_that_fails_again_stays_quarantined_with_its_new_reasons(bench: Bench) -> None:
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
    # A replay with the broken mapping rejects the loaded items again.
    bench.ingest(canned(page, normalize=in_euros), replay=ReplayParameters())
    assert quarantined(bench) == 3


def test_every_page_of_a_body_with_rejects_is_replayed(bench: Bench) -> None:
    """If the body contains no times, each page with this body becomes another quote."""
    untimed = {name: value for name, value in item(0).items() if name != "observed_at"}
    for fetched_at in (FETCHED, LATER):
        bench.ingest(canned([untimed], fetched_at=fetched_at, normalize=in_euros))
    parse = canned().parse

    def timed(page: Page) -> list[Any]:
        return [{**fields, "observed_at": page.fetched_at} for fields in parse(page)]

    bench.ingest(canned(parse=timed), replay=ReplayParameters(rejected=True))
    assert [row["observed_at"] for row in bench.rows("SELECT observed_at FROM quotes ORDER BY 1")] == [FETCHED, LATER]


def test_a_replayed_old_page_does_not_undo_later_corrections(bench: Bench) -> None:
    bench.ingest(canned([item(0, price="1", name="Old", symbol="OLD")]))
    bench.ingest(canned([item(0, price="2", name="New", symbol="NEW")], fetched_at=LATER))
    loaded = content_hash(bench.engine)
    old = bench.one("SELECT run FROM pages ORDER BY committed_at LIMIT 1")
    run = bench.ingest(canned(), replay=ReplayParameters(run=old))
    assert counters(bench, run["id"]) == (1, 0, 0, 0, 0, 0)
    assert bench.one("SELECT superseded FROM pages WHERE run = :run", run=run["id"]) == 1
    assert content_hash(bench.engine) == loaded


def test_a_corrected_page_does_not_overwrite_a_quote_that_a_later_page_confirmed(bench: Bench) -> None:
    """An unchanged quote keeps its first fetch time. So a replay must also read the later pages with it."""
    fetches = [
        (FETCHED, "10"),
        (LATER, "11,0"),
        (LATER + timedelta(hours=1), "10"),
        (LATER + timedelta(hours=2), "10.0"),
    ]
    for fetched_at, price in fetches:
        bench.ingest(canned([item(0, price=price)], [item(1)], fetched_at=fetched_at))

    def corrected(fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**fields, "price": fields["price"].replace(",", ".")}

    run = bench.request(canned(normalize=corrected), replay=ReplayParameters(rejected=True))
    while (row := bench.slice(run, task_slice=0))["status"] == "queued":
        pass
    assert row["status"] == "succeeded"
    # The page with the corrected quote, and later pages with a quote of the same time, are read.
    assert bench.one("SELECT count(*) FROM pages WHERE run = :run", run=run) == 6
    assert bench.one("SELECT price FROM quotes JOIN listings ON id = listing_id WHERE source_asset_id = 'coin-0'") == 10


def test_items_rejected_by_a_replay_can_be_replayed(bench: Bench) -> None:
    bench.ingest(canned([item(0), item(1)]))
    broken = bench.ingest(canned(normalize=in_euros), replay=ReplayParameters())
    assert quarantined(bench) == 2
    for parameters in (ReplayParameters(rejected=True, run=broken["id"]), ReplayParameters(rejected=True)):
        run = bench.ingest(canned(), replay=parameters)
        assert counters(bench, run["id"])[0] == 2 if parameters.run else True
    assert quarantined(bench) == 0


def test_a_page_that_an_earlier_parser_read_as_empty_is_always_replayed(bench: Bench) -> None:
    bench.ingest(canned([item(0)], parse=lambda _: []))
    for _ in range(2):
        bench.rows("TRUNCATE quotes, latest_quotes")
        run = bench.ingest(canned(), replay=ReplayParameters())
        assert counters(bench, run["id"])[:2] == (1, 1)


def test_a_mapping_that_reads_another_field_corrects_the_stored_quotes(bench: Bench) -> None:
    page = [item(0, cap="7")]
    bench.ingest(canned(page, normalize=without_cap))
    run = bench.ingest(
        canned(normalize=lambda fields: {**without_cap(fields), "market_cap": fields["cap"]}), replay=ReplayParameters()
    )
    assert counters(bench, run["id"]) == (1, 0, 1, 0, 0, 0)
    assert bench.one("SELECT market_cap FROM quotes") == 7


def test_a_replay_resumes_after_each_slice(bench: Bench) -> None:
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


def test_a_page_without_its_body_is_skipped_and_a_replay_without_any_body_fails(bench: Bench) -> None:
    bench.ingest(canned([item(0)], [item(1)]))
    bench.rows("UPDATE raw_bodies SET body = NULL WHERE digest = (SELECT body_digest FROM pages WHERE seq = 0)")
    run = bench.ingest(canned(), replay=ReplayParameters())
    assert (run["status"], counters(bench, run["id"])[0]) == ("succeeded", 1)
    bench.rows("UPDATE raw_bodies SET body = NULL")
    run = bench.ingest(canned(), replay=ReplayParameters())
    assert (run["status"], run["error_code"]) == ("failed", "bodies_missing")
    assert "2 of the 2 chosen pages" in run["error_detail"]


def test_a_replay_that_fails_does_not_pause_its_source(bench: Bench) -> None:
    def parse(page: Page) -> list[Any]:
        raise AssertionError

    bench.ingest(canned([item(0)]))
    run = bench.request(canned(parse=parse), replay=ReplayParameters())
    bench.rows("UPDATE runs SET status = 'running', claims = 1, attempts = 99 WHERE id = :run", run=run)
    bench.let_leases_run_out()
    assert bench.run(run)["error_code"] == "poisoned"
    assert bench.one("SELECT paused_reason FROM sources WHERE name = 'canned'") is None


def test_a_live_run_and_a_replay_of_a_source_run_at_the_same_time(bench: Bench) -> None:
    source = canned([item(0)])
    bench.ingest(source)
    replay = bench.request(source, replay=ReplayParameters())
    live = bench.request(source)
    assert bench.slice(live)["status"] == "succeeded"
    assert bench.slice(replay)["status"] == "succeeded"
