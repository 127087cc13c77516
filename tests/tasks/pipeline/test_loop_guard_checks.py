"""Test single checks of the loop guard: future cursors, repeated requests and slices without progress."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sources.contract import Page, Source, TerminalError, TransientError
from tasks.pipeline.loop_guard import MAX_QUOTED_CHARS, LoopGuard
from tests.tasks.conftest import Bench
from tests.tasks.pipeline.conftest import OpenRun, OpenRunOf
from tests.upstreams import FETCHED, canned, item


def make_guard(bench: Bench, run: OpenRun, source: Source) -> LoopGuard:
    window = run.preparer.window("", run.lease.cursor)
    return LoopGuard(bench.engine, source, run.lease, window, run.preparer.reread)


def page_of(*items: Any, cursor: Any, **request: Any) -> Page:
    return Page(json.dumps(items).encode(), "application/json", request, FETCHED, cursor)


@pytest.mark.parametrize(
    "cursor",
    [
        {"since": "2999-01-01T00:00:00Z"},
        {"done": [7, None, {"until": "2999-01-01T00:00:00+02:00"}]},
        ["2999-01-01T00:00:00Z"],
    ],
    ids=["text", "nested", "list"],
)
def test_a_cursor_moved_by_an_item_from_the_future_fails_the_run_at_once(
    bench: Bench, open_run: OpenRunOf, cursor: Any
) -> None:
    run = open_run(source := canned())
    page = page_of(item(observed_at="2999-01-01T00:00:00Z"), cursor=cursor)
    with pytest.raises(TerminalError, match=r"canned: an item of 2999-01-01.* moved the cursor") as failed:
        make_guard(bench, run, source).check(page, run.preparer.normalize(page))
    assert failed.value.code == "cursor_in_future"


@pytest.mark.parametrize(
    "cursor",
    [
        None,
        {"next": 2999, "day": "2999-01-01", "time": "2999-01-01T00:00:00", "since": "2026-01-01T00:00:00Z"},
        [None, 1.5, True, "2999"],
    ],
    ids=["none", "no_times_with_an_offset", "list"],
)
def test_an_item_from_the_future_is_allowed_if_the_cursor_contains_no_future_time(
    bench: Bench, open_run: OpenRunOf, cursor: Any
) -> None:
    run = open_run(source := canned())
    page = page_of(item(observed_at="2999-01-01T00:00:00Z"), cursor=cursor)
    make_guard(bench, run, source).check(page, run.preparer.normalize(page))


def test_the_error_quotes_only_the_beginning_of_a_long_request(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(source := canned())
    guard, page = make_guard(bench, run, source), page_of(cursor={"next": 1}, ids="x" * 1000)
    guard.check(page, run.preparer.normalize(page))
    with pytest.raises(TransientError) as stuck:
        guard.check(page, run.preparer.normalize(page))
    quoted = json.dumps({"ids": "x" * 1000})[:MAX_QUOTED_CHARS]
    assert stuck.value.detail.endswith(f"while it repeats the request {quoted}…")
    assert stuck.value.code == "cursor_stuck"


def test_a_slice_that_ends_at_its_first_cursor_raises_an_error(bench: Bench, open_run: OpenRunOf) -> None:
    run = open_run(source := canned())
    guard = make_guard(bench, run, source)
    with pytest.raises(TransientError, match="did not move in a whole slice") as stuck:
        guard.check_end()
    assert stuck.value.retry_after == 0, "the slice would continue with another partition"
    page = page_of(cursor={"next": 1})
    guard.check(page, run.preparer.normalize(page))
    guard.check_end()
