"""Test that a slice works on its run until its time is up, and that the next slice continues the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Engine
from structlog.testing import capture_logs

from sources.contract import RESERVED_PREFIXES, Http, Page, TerminalError, Upstream, Window
from store.engine import make_engine
from tasks.ingest import work_on
from tasks.pipeline.slice import Slice, SliceEnded
from tasks.runs.claims import claim_run, join_run
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.upstreams import canned, item


def test_the_next_slice_resumes_at_the_page_after_the_last_committed_page(bench: Bench) -> None:
    fetched: list[int] = []
    run = bench.request(canned([item(0)], [item(1)], [item(2)], before=fetched.append))
    for status in ("queued", "queued", "queued", "succeeded"):
        assert bench.slice(run, task_slice=0)["status"] == status
    assert fetched == [0, 1, 2]
    assert bench.run(run)["claims"] == 4
    assert bench.run(run)["attempts"] == 1
    assert [row["seq"] for row in bench.rows("SELECT seq FROM pages ORDER BY seq")] == [0, 1, 2]


def test_a_full_refresh_ignores_the_cursor_but_resumes_after_a_slice(bench: Bench) -> None:
    cursors: list[object] = []
    source = canned([item(0)], [item(1)])

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        cursors.append(window.cursor and window.cursor["next"])
        yield from source.fetch(window, http)

    recording = replace(source, fetch=fetch)
    bench.ingest(recording)
    run = bench.request(recording, full_refresh=True)
    bench.slice(run, task_slice=0)
    bench.slice(run)
    assert cursors == [None, None, 1]


def test_the_number_of_slices_does_not_change_the_loaded_data(
    bench: Bench, make_database: Callable[[], str], content: Callable[[Engine], str]
) -> None:
    loaded = []
    for task_slice in (60, 0):
        engine = make_engine(make_database(), "test")
        sliced = replace(bench, engine=engine)
        run = sliced.request(canned([item(price="10")], [item(price="11")]))
        while sliced.slice(run, task_slice=task_slice)["status"] == "queued":
            pass
        assert sliced.one("SELECT price FROM quotes") == 11
        loaded.append(content(engine))
        engine.dispose()
    assert loaded[0] == loaded[1]


def test_a_slice_that_exceeds_its_soft_limit_rejects_no_item_and_keeps_its_lease(bench: Bench) -> None:
    def normalize(fields: dict[str, str]) -> dict[str, str]:
        raise SoftTimeLimitExceeded

    run = bench.request(canned([item(0)], normalize=normalize))
    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(SoftTimeLimitExceeded):
        work_on(bench.engine, bench.settings, claim)
    assert bench.one("SELECT count(*) FROM rejects") == 0
    assert bench.run(run)["status"] == "running"
    assert bench.one("SELECT lease_run FROM checkpoints") == run


def test_a_slice_that_runs_out_of_time_stops_after_its_page_and_releases_its_lease(bench: Bench) -> None:
    source = canned([item(0)], [item(1)])
    claim = claim_run(bench.engine, bench.request(source))
    assert claim
    with pytest.raises(SliceEnded):
        Slice(bench.engine, bench.settings, source, claim, seconds=0).work()
    assert bench.one("SELECT count(*) FROM pages") == 1
    assert bench.one("SELECT lease_run FROM checkpoints") is None


def test_a_page_is_not_loaded_if_that_could_outlast_the_lease(bench: Bench) -> None:
    run = bench.slice(bench.request(canned([item()])), transaction_timeout=1e-6)
    assert (run["status"], run["waiting_reason"].partition(":")[0]) == ("waiting", "database_unavailable")
    assert bench.one("SELECT count(*) FROM pages") == 0


def test_a_run_succeeds_if_its_only_rejects_lack_a_price(bench: Bench) -> None:
    run = bench.ingest(canned([item(0), item(1, price=None)]))
    assert (run["status"], counters(bench, run["id"])) == ("succeeded", (2, 1, 0, 0, 0, 1))


def test_a_run_fails_if_all_its_items_are_rejected(bench: Bench) -> None:
    with capture_logs() as logs:
        run = bench.ingest(canned([item(0, price=None), item(1, symbol="")]))
    assert (run["status"], run["error_code"]) == ("failed", "nothing_loaded")
    assert f"/runs/{run['id']}/rejects" in run["error_detail"]
    [ended] = [log for log in logs if log["event"] == "run_ended"]
    assert (ended["log_level"], ended["code"], ended["reason"]) == ("error", "nothing_loaded", run["error_detail"])


@pytest.mark.parametrize("name", [*RESERVED_PREFIXES, *(f"{prefix}2" for prefix in RESERVED_PREFIXES)])
def test_a_run_fails_if_its_source_uses_a_reserved_partition_name(bench: Bench, name: str) -> None:
    run = bench.ingest(canned([item()], partitions=["own", name]))
    assert run["status"] == "failed"
    assert f"the partition name '{name}' is reserved" in run["error_detail"]
    assert bench.one("SELECT count(*) FROM pages") == 0


def test_a_source_without_partitions_succeeds_and_logs_a_hint(bench: Bench) -> None:
    with capture_logs() as logs:
        run = bench.ingest(canned(partitions=()))
    assert run["status"] == "succeeded"
    assert "partitions_missing" in [log["event"] for log in logs]


@pytest.mark.parametrize(
    ("name", "value"), [("CANNED_PLAN", "platinum"), ("CANNED_PLAN", "keyed"), ("CANNED_URL", "not an address")]
)
def test_invalid_settings_of_a_source_fail_its_run_before_any_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    fetched: list[int] = []
    upstreams = {"open": Upstream("http://127.0.0.1:9"), "keyed": Upstream("http://127.0.0.1:9", key_header="X-Key")}
    monkeypatch.setenv(name, value)
    run = bench.ingest(canned([item()], before=fetched.append, upstreams=upstreams))
    assert (run["status"], run["error_code"], fetched) == ("failed", "misconfigured", [])
    assert "CANNED_" in run["error_detail"]


def test_an_assistant_skips_a_failing_partition_and_the_run_reports_its_error(bench: Bench) -> None:
    source = canned([item()], partitions=("a", "b", "c"))

    def parse(page: Page) -> list[Any]:
        if page.request["file"] == "b":
            raise TerminalError("b: is torn", code="torn")
        return [item()]

    source = replace(source, parse=parse)
    claim = claim_run(bench.engine, bench.request(source))
    assert claim
    assistant = join_run(bench.engine, claim.run, claim.number)
    assert assistant
    with capture_logs() as logs:
        Slice(bench.engine, bench.settings, source, assistant).assist()
    [failed] = [log for log in logs if log["event"] == "partition_failed"]
    assert (failed["partition"], failed["code"], failed["reason"]) == ("b", "torn", "b: is torn")
    assert [row["partition"] for row in bench.rows("SELECT partition FROM pages ORDER BY 1")] == ["a", "c"]
    work_on(bench.engine, bench.settings, claim)
    row = bench.run(claim.run)
    assert (row["status"], row["error_code"], row["error_detail"]) == ("failed", "torn", "b: is torn")
