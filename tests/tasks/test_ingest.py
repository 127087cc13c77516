"""Test the status of a run after a slice: it continues, waits, fails or is cancelled."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from settings import secrets_in
from sources.contract import Http, Page, TerminalError, TransientError, Window
from sources.registry import BROKEN, SOURCES, BrokenSource
from tasks.ingest import ingest
from tasks.runs.claims import claim_run
from tasks.runs.requests import RunRequest, SourceBroken, request_cancel, request_runs
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_a_run_waits_as_long_as_the_upstream_requires(bench: Bench) -> None:
    def limit(number: int) -> None:
        raise TransientError("too many calls", code="rate_limited", retry_after=53)

    run = bench.ingest(canned([item()], before=limit))
    assert run["status"] == "waiting"
    assert re.fullmatch(r"rate_limited: too many calls; next attempt at 20\S+Z", run["waiting_reason"])
    assert bench.one("SELECT next_attempt_at - clock_timestamp() BETWEEN '50s' AND '53s' FROM runs")
    assert claim_run(bench.engine, run["id"]) is None
    assert bench.one("SELECT lease_run FROM checkpoints") is None


def test_a_run_fails_after_max_waits_without_a_committed_page(bench: Bench) -> None:
    failing = {1, 2, 3, 5, 6, 7, 8, 9}
    pages: list[int] = []

    def fail_sometimes(number: int) -> None:
        pages.append(number)
        if len(pages) in failing:
            raise TransientError("down")

    run = bench.request(canned([item(0)], [item(1)], before=fail_sometimes))
    for _ in range(20):
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        if bench.slice(run, max_waits=3, task_slice=0)["status"] == "failed":
            break
    assert pages == [0, 0, 0, 0, 1, 1, 1, 1]
    assert bench.run(run)["error_code"] == "upstream_unavailable"
    assert "gave up after 3 waits" in bench.run(run)["error_detail"]


def test_a_committed_page_resets_the_count_of_waits_within_a_slice(bench: Bench) -> None:
    pages: list[int] = []

    def load_only_the_first_page(number: int) -> None:
        pages.append(number)
        if number == 1 or len(pages) <= 3:
            raise TransientError("down")

    run = bench.request(canned([item(0)], [item(1)], before=load_only_the_first_page))
    for _ in range(4):
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        row = bench.slice(run, max_waits=4)
    assert pages == [0, 0, 0, 0, 1]
    assert (row["status"], row["waits"]) == ("waiting", 1)


def test_waits_for_our_own_rate_limit_never_count_as_failures(bench: Bench) -> None:
    def limit(number: int) -> None:
        raise TransientError("used up", code="rate_limited", retry_after=0.001, is_failure=False)

    run = bench.request(canned([item(0)], before=limit))
    for _ in range(5):
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        row = bench.slice(run, max_waits=2, retry_after_failure=60.0)
    assert (row["status"], row["waits"]) == ("waiting", 0)
    assert bench.one("SELECT next_attempt_at < clock_timestamp() + interval '5 s' FROM runs")


def test_waits_grow_even_if_the_upstream_always_sends_the_same_retry_after(bench: Bench) -> None:
    def limit(number: int) -> None:
        raise TransientError("slow down", code="rate_limited", retry_after=100)

    run = bench.request(canned([item(0)], before=limit))
    gaps: list[float] = []
    for _ in range(6):
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        row = bench.slice(run, max_waits=5, retry_after_failure=30.0)
        if row["status"] == "waiting":
            gaps.append(bench.one("SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8 FROM runs"))
    assert (row["error_code"], row["error_detail"]) == ("rate_limited", "slow down; gave up after 5 waits")
    assert [round(gap, -1) for gap in gaps] == [100, 100, 120, 240, 480]


def test_a_run_with_a_very_large_max_waits_keeps_waiting(bench: Bench) -> None:
    def fail(number: int) -> None:
        raise TransientError("down")

    run = bench.request(canned([item(0)], before=fail))
    bench.rows("UPDATE runs SET waits = 100000")
    assert bench.slice(run, max_waits=10**9)["status"] == "waiting"
    assert bench.one("SELECT next_attempt_at < clock_timestamp() + interval '15 min' FROM runs")


def test_a_terminal_error_fails_the_run_and_pauses_the_source(bench: Bench) -> None:
    def refuse(number: int) -> None:
        raise TerminalError("quota used up", code="payment_required", pause=timedelta(days=1))

    run = bench.ingest(canned([item()], before=refuse))
    assert (run["status"], run["error_code"], run["error_detail"]) == ("failed", "payment_required", "quota used up")
    assert bench.one("SELECT paused_until > clock_timestamp() + interval '23h' FROM sources WHERE name = 'canned'")
    waiting = bench.ingest(canned([item()]))
    assert waiting["status"] == "waiting"
    assert "paused" in waiting["waiting_reason"]


def test_a_bug_in_a_source_names_its_line_and_hides_secrets(bench: Bench) -> None:
    [secret, *_] = secrets_in(os.environ)

    def crash(number: int) -> None:
        raise ZeroDivisionError(f"no {secret} detail")

    run = bench.ingest(canned([item()], before=crash))
    assert (run["status"], run["error_code"]) == ("failed", "source_error")
    assert re.fullmatch(
        r"canned: ZeroDivisionError: no \[hidden\] detail \(tests/tasks/test_ingest\.py:\d+\)", run["error_detail"]
    )


def test_a_bug_in_one_partition_does_not_stop_the_others(bench: Bench) -> None:
    source = canned([item()], partitions=("a", "b"))
    fetch = source.fetch

    def fail_in_a(window: Window, http: Http) -> Iterator[Page]:
        if window.partition == "a":
            raise ZeroDivisionError("in a")
        yield from fetch(window, http)

    run = bench.ingest(replace(source, fetch=fail_in_a))
    assert (run["status"], run["error_code"]) == ("failed", "source_error")
    assert "ZeroDivisionError: in a (tests/tasks/test_ingest.py:" in run["error_detail"]
    assert bench.one("SELECT count(*) FROM quotes") == 1


def test_a_run_of_a_broken_source_fails_with_what_is_wrong(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    bench.monkeypatch.delitem(SOURCES, "canned")  # type: ignore[arg-type]  # a dict, typed as a Mapping
    bench.monkeypatch.setitem(BROKEN, "canned", BrokenSource("canned", "canned", "canned.py:5: Rate is wrong"))
    row = bench.slice(run)
    assert (row["error_code"], row["error_detail"]) == ("source_broken", "canned.py:5: Rate is wrong")
    with pytest.raises(SourceBroken, match=r"canned is broken: canned\.py:5: Rate is wrong"):
        request_runs(bench.engine, [RunRequest("canned")], requested_by="test")


def test_a_cancelled_run_ends_before_its_next_page(bench: Bench) -> None:
    def cancel(number: int) -> None:
        if number == 1:
            assert request_cancel(bench.engine, run) == "running"

    run = bench.request(canned([item(0)], [item(1)], before=cancel))
    row = bench.slice(run)
    assert (row["status"], bool(row["finished_at"])) == ("cancelled", True)
    assert bench.one("SELECT count(*) FROM quotes") == 1
    assert bench.one("SELECT lease_run FROM checkpoints") is None


def test_a_run_of_a_removed_source_fails(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    bench.monkeypatch.delitem(SOURCES, "canned")  # type: ignore[arg-type]  # a dict, typed as a Mapping
    row = bench.slice(run)
    assert (row["error_code"], row["error_detail"]) == ("unknown_source", "source 'canned' no longer exists")


def test_a_run_of_a_paused_source_waits_until_the_pause_ends(bench: Bench) -> None:
    run = bench.request(canned([item()]))
    bench.rows("UPDATE sources SET paused_until = clock_timestamp() + interval '7 min', paused_reason = 'maintenance'")
    row = bench.slice(run)
    assert (row["status"], row["waits"]) == ("waiting", 0)
    assert row["waiting_reason"].startswith("the source is paused: maintenance; next attempt at 2")
    pause_end = bench.one("SELECT paused_until FROM sources")
    assert abs(row["next_attempt_at"] - pause_end) < timedelta(seconds=1)


def test_a_message_with_an_invalid_run_id_is_logged_and_discarded() -> None:
    with capture_logs() as events:
        ingest("coingecko", "an argument of a newer version")
    assert [(event["event"], event["run"]) for event in events] == [("message_invalid", "'coingecko'")]


def test_a_message_of_a_run_that_the_database_lost_names_the_run(
    bench: Bench, process_settings: pytest.MonkeyPatch
) -> None:
    run = bench.request(canned([item()]))
    bench.rows("DELETE FROM runs")
    with capture_logs() as logs:
        ingest(str(run))
    assert [(log["event"], log["run"]) for log in logs] == [("run_lost", str(run))]


def test_a_slice_whose_run_the_database_lost_names_the_run(bench: Bench, process_settings: pytest.MonkeyPatch) -> None:
    run = bench.request(canned([item()], before=lambda _: lose()))

    def lose() -> None:
        bench.rows("DELETE FROM runs")

    with capture_logs() as logs:
        ingest(str(run))
    assert [log["event"] for log in logs if log["log_level"] in ("warning", "error")] == ["slice_fenced", "run_lost"]
