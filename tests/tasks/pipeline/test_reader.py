"""Test that the next partition is prefetched during a load, and that outdated prefetched pages are discarded."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from sources.contract import Http, Page, Source, TerminalError, Window
from tests.processes import until
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED, canned, item

TIMEOUT = 10.0


def _without_color(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "color"}


class Files:
    """A source that is read ahead. Each partition is named by a number, and has one page with one quote of that coin.

    events: "<partition> opened", "… loaded" and "… closed", in order; cursors: each partition that was fetched, and
    from which cursor. By partition: on_open, called when it is opened; on_confirm, before its page is committed;
    fields, further fields of its item.
    """

    def __init__(self, *names: str):
        self.events: list[str] = []
        self.cursors: list[tuple[str, Any]] = []
        self.opened = {name: threading.Event() for name in names}
        self.on_open: dict[str, Callable[[], Any]] = {}
        self.on_confirm: dict[str, Callable[[], Any]] = {}
        self.fields: dict[str, dict[str, Any]] = {}
        self.source: Source = replace(
            canned(partitions=names, columns=lambda _: None, normalize=_without_color), fetch=self._fetch
        )

    def wait_for_prefetches(self) -> None:
        """Delay the commit of each page, except the last, until the next partition is opened."""
        for name, following in pairwise(self.opened):
            self.opened[following].clear()
            self.on_confirm[name] = lambda following=following: self.opened[following].wait(TIMEOUT)

    def _fetch(self, window: Window, _: Http) -> Iterator[Page]:
        name, cursor = window.partition, window.cursor
        self.cursors.append((name, cursor))
        self.events.append(f"{name} opened")
        try:
            try:
                self.on_open.get(name, lambda: None)()
            finally:
                self.opened[name].set()
            if cursor != {"done": True}:
                fields = item(int(name), price=7 if cursor else 1, **self.fields.get(name, {}))
                body, confirm = json.dumps([fields]).encode(), self._confirm(name)
                yield Page(body, "application/json", {"name": name}, FETCHED, {"done": True}, confirm=confirm)
        finally:
            self.events.append(f"{name} closed")

    def _confirm(self, name: str) -> Callable[[], None]:
        def confirm() -> None:
            self.on_confirm.get(name, lambda: None)()
            self.events.append(f"{name} loaded")

        return confirm


@pytest.fixture
def files() -> Files:
    return Files("1", "2", "3")


def quotes(bench: Bench) -> list[tuple[str, str]]:
    rows = bench.rows("SELECT source_asset_id, price::text FROM quotes JOIN listings ON id = listing_id ORDER BY 1")
    return [tuple(row.values()) for row in rows]


def test_the_next_partition_is_opened_before_the_current_page_is_committed(bench: Bench, files: Files) -> None:
    files.wait_for_prefetches()
    assert bench.ingest(files.source)["status"] == "succeeded"
    assert quotes(bench) == [("coin-1", "1"), ("coin-2", "1"), ("coin-3", "1")]
    assert files.cursors == [("1", None), ("2", None), ("3", None)]
    assert files.events.index("2 opened") < files.events.index("1 loaded")
    assert files.events.index("3 opened") < files.events.index("2 loaded")


def test_a_prefetched_partition_is_read_again_if_its_cursor_moved(bench: Bench, files: Files) -> None:
    def move_cursor() -> None:
        del files.on_open["2"]
        bench.rows("INSERT INTO checkpoints (source, partition, cursor) VALUES ('canned', '2', '{\"elsewhere\": 1}')")

    files.on_open["2"] = move_cursor
    files.on_confirm["1"] = lambda: files.opened["2"].wait(TIMEOUT)
    assert bench.ingest(files.source)["status"] == "succeeded"
    assert quotes(bench) == [("coin-1", "1"), ("coin-2", "7"), ("coin-3", "1")]
    assert [cursor for name, cursor in files.cursors if name == "2"] == [None, {"elsewhere": 1}]
    assert files.events.count("2 closed") == 2


def test_a_partition_leased_by_another_worker_is_not_prefetched(bench: Bench, files: Files) -> None:
    run = bench.request(files.source)
    bench.rows(
        "INSERT INTO checkpoints (source, partition, lease_run, lease_claim, lease_expires)"
        " VALUES ('canned', '2', :run, 1, clock_timestamp() + make_interval(secs => :lease))",
        run=run,
        lease=bench.settings.lease,
    )
    files.on_confirm["1"] = lambda: files.opened["3"].wait(TIMEOUT)
    files.on_confirm["3"] = lambda: bench.rows("UPDATE checkpoints SET lease_run = NULL WHERE partition = '2'")
    assert bench.slice(run)["status"] == "succeeded"
    assert quotes(bench) == [("coin-1", "1"), ("coin-2", "1"), ("coin-3", "1")]
    assert [name for name, _ in files.cursors] == ["1", "3", "2"]


def test_an_error_of_a_prefetched_partition_does_not_fail_the_current_partition(bench: Bench, files: Files) -> None:
    def fail() -> None:
        raise TerminalError("2: is torn", code="torn")

    files.on_open["2"] = fail
    files.on_confirm["1"] = lambda: files.opened["2"].wait(TIMEOUT)
    run = bench.ingest(files.source)
    assert (run["status"], run["error_code"], run["error_detail"]) == ("failed", "torn", "2: is torn")
    assert quotes(bench) == [("coin-1", "1"), ("coin-3", "1")]


def test_the_end_of_a_slice_closes_all_partitions_and_threads(bench: Bench, files: Files) -> None:
    threads: list[str] = []
    files.on_open["2"] = lambda: threads.append(threading.current_thread().name)
    files.on_confirm["1"] = lambda: files.opened["2"].wait(TIMEOUT)
    run = bench.request(files.source)
    assert bench.slice(run, task_slice=0)["status"] == "queued"
    assert files.events.count("2 closed") == 1
    assert threads == ["prefetch_0"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    assert bench.rows("SELECT partition FROM checkpoints WHERE lease_run IS NOT NULL") == []


def test_a_partition_without_new_pages_does_not_prefetch_the_next_partition(bench: Bench, files: Files) -> None:
    bench.ingest(files.source)
    leases: list[int] = []
    for name in ("2", "3"):
        files.on_open[name] = lambda name=name: leases.append(
            bench.one("SELECT count(lease_run) FROM checkpoints WHERE partition = :name", name=name)
        )
    files.cursors.clear()
    assert bench.ingest(files.source)["status"] == "succeeded"
    assert [name for name, _ in files.cursors] == ["1", "2", "3"]
    assert leases == [1, 1], "a partition was opened before its slice had the lease"


def test_a_full_refresh_prefetches_the_next_partition_from_its_beginning(bench: Bench, files: Files) -> None:
    bench.ingest(files.source)
    files.cursors.clear()
    files.events.clear()
    files.wait_for_prefetches()
    assert bench.ingest(files.source, full_refresh=True)["status"] == "succeeded"
    assert files.cursors == [("1", None), ("2", None), ("3", None)]
    assert files.events.index("2 opened") < files.events.index("1 loaded")


def test_drift_in_a_discarded_prefetched_page_is_counted_once(bench: Bench, files: Files) -> None:
    bench.ingest(files.source)
    files.fields = {"2": {"color": "red"}}
    bench.rows("UPDATE checkpoints SET cursor = NULL")

    def move_cursor() -> None:
        del files.on_open["2"]
        bench.rows("UPDATE checkpoints SET cursor = '{\"elsewhere\": 1}' WHERE partition = '2'")

    files.on_open["2"] = move_cursor
    files.wait_for_prefetches()
    assert bench.ingest(files.source)["status"] == "succeeded"
    assert [cursor for name, cursor in files.cursors if name == "2"][1:] == [None, {"elsewhere": 1}]
    assert [(row["field"], row["pages"]) for row in bench.rows("SELECT field, pages FROM drift")] == [("color", 1)]


def test_a_source_without_columnar_parsing_is_not_prefetched(bench: Bench, files: Files) -> None:
    assert bench.ingest(replace(files.source, columns=None))["status"] == "succeeded"
    assert files.events == [f"{name} {event}" for name in "123" for event in ("opened", "loaded", "closed")]


def test_prefetched_pages_are_resolved_again_if_the_database_lost_their_listings(bench: Bench) -> None:
    pages = [item(0)], [item(1)], [item(1, observed_at="2026-01-02T00:00:00Z")], [item(2)]
    source = canned(*pages, columns=lambda _: None)

    def lose_listing() -> None:
        lose = "UPDATE listings SET source_asset_id = 'coin-9' WHERE source_asset_id = 'coin-1' RETURNING id"
        until(lambda: bench.rows(lose), within=1, what="the listing of page 1 is resolved")

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for number, page in enumerate(source.fetch(window, http)):
            yield page if number else replace(page, confirm=lose_listing)

    with capture_logs() as logs:
        assert bench.ingest(replace(source, fetch=fetch))["status"] == "succeeded"
    assert [log["reason"] for log in logs if log["event"] == "listings_lost"]
    assert quotes(bench) == [("coin-0", "1.5"), ("coin-1", "1.5"), ("coin-1", "1.5"), ("coin-2", "1.5")]
