"""The next partition is begun with while the last page of one is loaded; and used only if it is still what it was."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from sources.contract import Http, Page, Source, TerminalError, Window
from tests.tasks.conftest import Bench
from tests.upstreams import FETCHED, canned, item

PATIENCE = 10.0


def _without_colour(it: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in it.items() if name != "colour"}


class Files:
    """A source of partitions that are read ahead, each of one page with one quote, of the number in its name.

    said: what happened to which partition, in order. By a partition's name: first, what is done as it is begun with;
    confirm, before its page is committed; more, fields that its item has besides.
    """

    def __init__(self, *names: str):
        self.said: list[str] = []
        self.cursors: list[tuple[str, Any]] = []
        self.begun = {name: threading.Event() for name in names}
        self.first: dict[str, Callable[[], Any]] = {}
        self.confirm: dict[str, Callable[[], Any]] = {}
        self.more: dict[str, dict[str, Any]] = {}
        self.source: Source = replace(
            canned(partitions=names, columns=lambda _: None, normalize=_without_colour), fetch=self._fetch
        )

    def wait_for_the_next(self) -> None:
        """No page is committed but the last before the partition after it is begun with."""
        for name, following in pairwise(self.begun):
            self.begun[following].clear()
            self.confirm[name] = lambda following=following: self.begun[following].wait(PATIENCE)

    def _fetch(self, window: Window, _: Http) -> Iterator[Page]:
        name, cursor = window.partition, window.cursor
        self.cursors.append((name, cursor))
        self.said.append(f"{name} begun")
        try:
            try:
                self.first.get(name, lambda: None)()
            finally:
                self.begun[name].set()
            if cursor != {"done": True}:
                body = json.dumps([item(int(name), price=7 if cursor else 1, **self.more.get(name, {}))]).encode()
                yield Page(
                    body, "application/json", {"name": name}, FETCHED, {"done": True}, confirm=self._confirm(name)
                )
        finally:
            self.said.append(f"{name} closed")

    def _confirm(self, name: str) -> Callable[[], None]:
        def confirm() -> None:
            self.confirm.get(name, lambda: None)()
            self.said.append(f"{name} loaded")

        return confirm


@pytest.fixture
def files() -> Files:
    return Files("1", "2", "3")


def quotes(bench: Bench) -> list[tuple[str, str]]:
    found = bench.rows("SELECT source_asset_id, price::text FROM quotes JOIN listings ON id = listing_id ORDER BY 1")
    return [tuple(row.values()) for row in found]


def test_the_next_is_begun_with_before_the_last_page_is_committed(bench: Bench, files: Files) -> None:
    files.wait_for_the_next()
    assert bench.ingest(files.source)["status"] == "succeeded"
    assert quotes(bench) == [("coin-1", "1"), ("coin-2", "1"), ("coin-3", "1")]
    assert files.cursors == [("1", None), ("2", None), ("3", None)]
    assert files.said.index("2 begun") < files.said.index("1 loaded")
    assert files.said.index("3 begun") < files.said.index("2 loaded")


def test_what_was_read_from_a_cursor_that_moved_meanwhile_is_read_anew(bench: Bench, files: Files) -> None:
    def move() -> None:
        del files.first["2"]
        bench.rows("INSERT INTO checkpoints (source, partition, cursor) VALUES ('canned', '2', '{\"elsewhere\": 1}')")

    files.first["2"] = move
    files.confirm["1"] = lambda: files.begun["2"].wait(PATIENCE)
    assert bench.ingest(files.source)["status"] == "succeeded"
    assert quotes(bench) == [("coin-1", "1"), ("coin-2", "7"), ("coin-3", "1")]
    assert [cursor for name, cursor in files.cursors if name == "2"] == [None, {"elsewhere": 1}]
    assert files.said.count("2 closed") == 2


def test_one_that_somebody_else_is_at_is_passed_over(bench: Bench, files: Files) -> None:
    run = bench.request(files.source)
    bench.rows(
        "INSERT INTO checkpoints (source, partition, lease_run, lease_claim, lease_expires)"
        " VALUES ('canned', '2', :run, 1, clock_timestamp() + make_interval(secs => :lease))",
        run=run,
        lease=bench.settings.lease,
    )
    files.confirm["1"] = lambda: files.begun["3"].wait(PATIENCE)
    files.confirm["3"] = lambda: bench.rows("UPDATE checkpoints SET lease_run = NULL WHERE partition = '2'")
    assert bench.slice(run)["status"] == "succeeded"
    assert quotes(bench) == [("coin-1", "1"), ("coin-2", "1"), ("coin-3", "1")]
    assert [name for name, _ in files.cursors] == ["1", "3", "2"]


def test_an_error_of_the_next_is_none_of_the_one_before(bench: Bench, files: Files) -> None:
    def fail() -> None:
        raise TerminalError("2: is torn", code="torn")

    files.first["2"] = fail
    files.confirm["1"] = lambda: files.begun["2"].wait(PATIENCE)
    run = bench.ingest(files.source)
    assert (run["status"], run["error_code"], run["error_detail"]) == ("failed", "torn", "2: is torn")
    assert quotes(bench) == [("coin-1", "1"), ("coin-3", "1")]


def test_a_slice_that_ends_leaves_nothing_open(bench: Bench, files: Files) -> None:
    files.confirm["1"] = lambda: files.begun["2"].wait(PATIENCE)
    run = bench.request(files.source)
    assert bench.slice(run, task_slice=0)["status"] == "queued"
    assert files.said.count("2 closed") == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert bench.rows("SELECT partition FROM checkpoints WHERE lease_run IS NOT NULL") == []


def test_where_nothing_is_new_nothing_is_begun_with_too_early(bench: Bench, files: Files) -> None:
    bench.ingest(files.source)
    held: list[int] = []
    for name in ("2", "3"):
        files.first[name] = lambda name=name: held.append(
            bench.one("SELECT count(lease_run) FROM checkpoints WHERE partition = :name", name=name)
        )
    files.cursors.clear()
    assert bench.ingest(files.source)["status"] == "succeeded"
    assert [name for name, _ in files.cursors] == ["1", "2", "3"]
    assert held == [1, 1], "a partition was begun with that its slice had no lease of"


def test_a_full_refresh_begins_with_the_next_from_no_cursor(bench: Bench, files: Files) -> None:
    bench.ingest(files.source)
    files.cursors.clear()
    files.said.clear()
    files.wait_for_the_next()
    assert bench.ingest(files.source, full_refresh=True)["status"] == "succeeded"
    assert files.cursors == [("1", None), ("2", None), ("3", None)]
    assert files.said.index("2 begun") < files.said.index("1 loaded")


def test_a_change_that_was_seen_in_vain_is_seen_again(bench: Bench, files: Files) -> None:
    bench.ingest(files.source)
    files.more = {"2": {"colour": "red"}}
    bench.rows("UPDATE checkpoints SET cursor = NULL")

    def move() -> None:
        del files.first["2"]
        bench.rows("UPDATE checkpoints SET cursor = '{\"elsewhere\": 1}' WHERE partition = '2'")

    files.first["2"] = move
    files.wait_for_the_next()
    assert bench.ingest(files.source)["status"] == "succeeded"
    assert [row["field"] for row in bench.rows("SELECT field FROM drift")] == ["colour"]
