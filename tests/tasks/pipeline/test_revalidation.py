"""What did not change since it was last brought in is neither sent nor loaded again, and nothing else is passed by."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import Engine, RowMapping

from devstack.recorded_upstreams import RecordedUpstreams, routes
from sources.coingecko import source as coingecko
from sources.contract import Http, Page, TransientError, Window
from sources.http.json_body import json_list
from tasks.runs.leases import LeaseLost
from tests.tasks import feed as feed_module
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed
from tests.upstreams import item

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def upstream() -> Iterator[HTTPServer]:
    """For the module: it takes half a second to stop one."""
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield server


@pytest.fixture
def feed(upstream: HTTPServer) -> Feed:
    """Two pages of two items, and the empty one behind them."""
    upstream.clear()
    return Feed(upstream, [[item(0), item(1)], [item(2), item(3)]])


def pages(bench: Bench, run: RowMapping) -> list[tuple[int, int, bool]]:
    """Of each page: its status, how many items were fetched, whether any bytes were received."""
    rows = bench.rows(
        "SELECT status, fetched, bytes FROM pages WHERE run = :run ORDER BY partition, seq", run=run["id"]
    )
    return [(row["status"], row["fetched"], row["bytes"] > 0) for row in rows]


def etag(*items: Any) -> str:
    return f'"{hashlib.sha1(json.dumps(items).encode()).hexdigest()}"'  # as werkzeug makes it


# What is passed by


def test_what_did_not_change_is_not_sent_again_and_its_run_succeeds_with_nothing(
    bench: Bench, feed: Feed, content: Callable[[Engine], str]
) -> None:
    first = bench.ingest(feed.source())
    loaded = content(bench.engine)
    assert pages(bench, first) == [(200, 2, True), (200, 2, True), (200, 0, True)]
    assert feed.conditions == [None, None, None]

    feed.asked.clear()
    second = bench.ingest(feed.source())
    assert second["status"] == "succeeded"
    assert pages(bench, second) == [(304, 0, False)] * 3
    assert feed.conditions == [etag(item(0), item(1)), etag(item(2), item(3)), etag()]
    assert content(bench.engine) == loaded
    assert bench.one("SELECT count(DISTINCT body_digest) FROM pages") == 3
    assert bench.one("SELECT cursor->>'run' FROM checkpoints") == str(second["id"])


def test_an_unchanged_body_of_an_upstream_without_etags_is_not_loaded_again(bench: Bench, feed: Feed) -> None:
    feed.etags = False
    bench.ingest(feed.source())
    second = bench.ingest(feed.source())
    assert (second["status"], pages(bench, second)) == ("succeeded", [(200, 0, True)] * 3)
    assert set(feed.conditions) == {None}


def test_a_page_that_changed_is_loaded_and_only_that(bench: Bench, feed: Feed) -> None:
    bench.ingest(feed.source())
    feed.pages = [feed.pages[0], [item(2), item(3, observed_at="2026-01-02T00:00:00Z")]]
    second = bench.ingest(feed.source())
    assert pages(bench, second) == [(304, 0, False), (200, 2, True), (304, 0, False)]
    assert bench.one("SELECT count(*) FROM quotes") == 5


@pytest.mark.parametrize("other", [{"price": "2"}, {"observed_at": "2026-01-02T00:00:00Z"}], ids=["price", "time"])
def test_a_body_that_comes_back_after_another_is_loaded_again(
    bench: Bench, feed: Feed, other: dict[str, Any], content: Callable[[Engine], str]
) -> None:
    loaded = []
    for changes in ({}, other, {}):
        feed.pages = [[item(**changes)]]
        assert pages(bench, bench.ingest(feed.source()))[0] == (200, 1, True)
        loaded.append(content(bench.engine))
    assert loaded[1] != loaded[0]
    assert (loaded[2] == loaded[0]) == ("price" in other)


def test_a_new_etag_of_the_same_body_is_the_one_to_ask_with(bench: Bench, feed: Feed) -> None:
    bench.ingest(feed.source())
    bench.rows("""UPDATE validators SET etag = '"of-another-server"'""")
    feed.asked.clear()
    bench.ingest(feed.source())
    bench.ingest(feed.source())
    assert feed.conditions == ['"of-another-server"'] * 3 + [etag(item(0), item(1)), etag(item(2), item(3)), etag()]


def test_a_snapshot_that_went_on_in_another_slice_is_asked_for_page_by_page(bench: Bench, feed: Feed) -> None:
    for statuses in ([200] * 3, [304] * 3):
        run = bench.request(feed.source())
        while bench.slice(run, task_slice=0)["status"] == "queued":
            pass
        assert bench.run(run)["claims"] == 4
        assert [status for status, _, _ in pages(bench, bench.run(run))] == statuses


def test_a_source_need_not_know_that_its_upstream_sent_nothing(bench: Bench) -> None:
    """CoinGecko's looks into each body whether there is another page."""
    with RecordedUpstreams(0, routes(ROOT / "sample_data", seed=1, freeze=True)) as replay:
        threading.Thread(target=replay.serve_forever, daemon=True).start()
        bench.monkeypatch.setenv("COINGECKO_URL", f"http://127.0.0.1:{replay.server_address[1]}/coingecko/api/v3")
        first, second = bench.ingest(coingecko), bench.ingest(coingecko)
        replay.shutdown()
    assert [fetched for _, fetched, _ in pages(bench, first)] == [250, 250, 120]
    assert (second["status"], pages(bench, second)) == ("succeeded", [(304, 0, False)] * 3)


def test_a_run_that_is_told_nothing_new_has_no_rejects_and_leaves_those_of_before(bench: Bench, feed: Feed) -> None:
    feed.pages = [[item(0), item(1, price="much")]]
    assert bench.ingest(feed.source())["status"] == "partial"
    second = bench.ingest(feed.source())
    assert (second["status"], pages(bench, second)[0]) == ("succeeded", (304, 0, False))
    assert bench.one("SELECT count(*) FROM rejects") == 1


# What is not


def test_a_full_refresh_asks_without_a_condition_and_loads_everything(bench: Bench, feed: Feed) -> None:
    bench.ingest(feed.source())
    run = bench.request(feed.source(), full_refresh=True)
    while bench.slice(run, task_slice=0)["status"] == "queued":
        pass
    assert feed.conditions == [None] * 6
    assert bench.one("SELECT sum(unchanged) FROM pages WHERE run = :run", run=run) == 4
    assert [status for status, _, _ in pages(bench, bench.ingest(feed.source()))] == [304] * 3


def test_a_page_that_was_not_committed_leaves_nothing_to_ask_with(bench: Bench, feed: Feed) -> None:
    def refuse() -> None:
        raise TransientError("not this time")

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for page in feed_module.fetch(window, http):
            yield replace(page, confirm=refuse)

    run = bench.ingest(feed.source(fetch=fetch))
    assert run["status"] == "waiting"
    assert bench.one("SELECT count(*) FROM validators") == 0
    bench.register(feed.source())
    bench.rows("UPDATE runs SET next_attempt_at = NULL")
    assert bench.slice(run["id"])["status"] == "succeeded"
    assert feed.conditions == [None] * 4
    assert bench.one("SELECT count(*) FROM quotes") == 4


def test_what_another_mapping_read_is_loaded_again(
    bench: Bench, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    feed.pages = [[item(0), item(1, price="1,5")]]
    for version, price in (("first", 'it["price"]'), ("mended", 'it["price"].replace(",", ".")')):
        (tmp_path / f"feed_{version}.py").write_text(f'def normalize(it):\n    return it | {{"price": {price}}}\n')
        run = bench.ingest(feed.source(normalize=import_module(f"feed_{version}").normalize))
    assert feed.conditions == [None] * 4
    assert (run["status"], bench.one("SELECT count(*) FROM quotes")) == ("succeeded", 2)
    assert bench.one("SELECT state FROM rejects") == "replayed"


def test_an_item_that_was_only_ahead_of_its_time_is_looked_at_again(bench: Bench, feed: Feed) -> None:
    ahead = bench.one("SELECT clock_timestamp() + interval '1 hour'")
    feed.pages = [[item(0), item(1, observed_at=ahead.isoformat())]]
    assert bench.ingest(feed.source())["status"] == "partial"
    run = bench.slice(bench.request(feed.source()), clock_skew=7200)  # as if two hours had passed
    assert feed.conditions[0] == feed.conditions[2] is None
    assert (run["status"], bench.one("SELECT count(*) FROM quotes")) == ("succeeded", 2)


def test_a_price_that_stands_at_the_time_of_its_fetch_is_another_quote_each_time(bench: Bench, feed: Feed) -> None:
    def parse(page: Page) -> list[Any]:
        return [it | {"observed_at": page.fetched_at} for it in json_list(page.body)]

    for _ in range(2):
        run = bench.ingest(feed.source(parse=parse))
    assert pages(bench, run) == [(200, 2, True), (200, 2, True), (304, 0, False)]
    assert bench.one("SELECT count(*) FROM quotes") == 8


def test_a_body_whose_quotes_another_page_overwrote_is_loaded_again(bench: Bench, feed: Feed) -> None:
    feed.pages = [[item(price="1")], [item(price="2")]]
    bench.ingest(feed.source())
    assert bench.one("SELECT price FROM quotes") == 2
    feed.pages = [[item(price="1")]]
    run = bench.ingest(feed.source())
    assert pages(bench, run)[0] == (200, 1, True)
    assert bench.one("SELECT price FROM quotes") == 1


def test_a_body_that_is_kept_no_more_is_sent_again(bench: Bench, feed: Feed) -> None:
    bench.ingest(feed.source())
    bench.rows("DELETE FROM pages")
    bench.rows("DELETE FROM raw_bodies")
    run = bench.ingest(feed.source())
    assert feed.conditions == [None] * 6
    assert pages(bench, run) == [(200, 2, True), (200, 2, True), (200, 0, True)]


def test_a_page_that_is_not_what_was_answered_is_always_loaded(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        [page, *others] = feed_module.fetch(window, http)
        yield page
        items = [it for other in others for it in json_list(other.body)]
        yield replace(page, body=json.dumps(items).encode(), cursor={"run": window.run})

    for _ in range(2):
        run = bench.ingest(feed.source(fetch=fetch))
    assert [fetched for _, fetched, _ in pages(bench, run)] == [0, 2]
    assert feed.conditions == [None] * 3 + [etag(item(0), item(1)), None, None]


def test_a_partition_is_not_asked_with_what_another_was_answered(bench: Bench, feed: Feed) -> None:
    for _ in range(2):
        bench.ingest(feed.source(partitions=lambda: ("one", "other")))
    assert feed.conditions[:6] == [None] * 6
    assert None not in feed.conditions[6:]


def test_only_what_the_last_run_asked_is_remembered(bench: Bench, feed: Feed) -> None:
    """Else a source that asks from a time on would leave a row for every time."""

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        since = window.cursor["since"] if window.cursor else 0
        yield Page.of(http.get("/prices", {"page": 1, "since": since}), {"since": since + 1})

    for _ in range(3):
        assert bench.ingest(feed.source(fetch=fetch))["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM validators") == 1


def test_a_slice_that_was_given_up_for_dead_forgets_nothing(bench: Bench, feed: Feed) -> None:
    def fetch(window: Window, http: Http) -> Iterator[Page]:
        yield Page.of(http.get("/prices", {"page": 1}), {"run": window.run})
        bench.rows("UPDATE checkpoints SET lease_token = lease_token + 1")

    bench.ingest(feed.source())
    with pytest.raises(LeaseLost):
        bench.ingest(feed.source(fetch=fetch))
    assert bench.one("SELECT count(*) FROM validators") == 3


def test_a_run_that_had_nothing_to_ask_forgets_nothing(bench: Bench, feed: Feed) -> None:
    bench.ingest(feed.source(every=timedelta(minutes=5)))
    bench.ingest(feed.source(fetch=lambda window, http: iter(())))
    assert bench.one("SELECT count(*) FROM validators") == 3
