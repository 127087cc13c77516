"""Test that a full refresh deletes exactly the quotes that no file contains any longer, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from tasks.archive.seen_quotes import delete_seen
from tasks.ingest import work_on
from tasks.retraction import batches
from tasks.runs.claims import ClaimLost, claim_run
from tasks.runs.parameters import ReplayParameters
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, request_cancel, request_runs
from tasks.runtime.fault_points import RetractionPoint
from tests.processes import Process, Processes, until
from tests.tasks.retraction.closes import truth_source
from tests.tasks.retraction.whole_truth import Truth, days, row

ETH = ("eth01", "eth02", "eth03")


def load_two_files(truth: Truth) -> None:
    """Load five days of btc, and three days of eth."""
    truth.write("btc.csv", *days("btc", range(1, 6)))
    truth.write("eth.csv", *days("eth", range(1, 4)))
    assert truth.load()["status"] == "succeeded"


def retraction(run: Any) -> tuple[int, ...]:
    """Return the numbers of compared, missing and deleted quotes of a run."""
    return tuple(run["retraction"][name] for name in ("compared", "missing", "deleted"))


def test_a_full_refresh_deletes_the_quotes_that_are_in_no_file(truth: Truth) -> None:
    load_two_files(truth)
    truth.write("btc.csv", row("btc", 1), row("btc", 2, 9), row("btc", 4), row("btc", 7))
    assert truth.load()["retraction"] is None
    assert set(truth.quotes) == {"btc01", "btc02", "btc03", "btc04", "btc05", "btc07", *ETH}
    etag = truth.bench.one("SELECT sum(number) FROM revisions")
    run = truth.refresh()
    assert (run["status"], retraction(run)) == ("succeeded", (9, 2, 2))
    assert truth.quotes == {"btc01": "1", "btc02": "9", "btc04": "1", "btc07": "1", **dict.fromkeys(ETH, "1")}
    assert truth.bench.one("SELECT sum(number) FROM revisions") > etag
    truth.assert_consistent()
    assert retraction(truth.refresh()) == (7, 0, 0)


def test_a_dry_run_names_the_missing_quotes_and_their_lines_and_deletes_none(truth: Truth) -> None:
    load_two_files(truth)
    loaded_by = truth.bench.one("SELECT DISTINCT run FROM quotes")
    truth.write("btc.csv", row("btc", 1), row("btc", 2), row("btc", 4))
    before = truth.quotes
    run = truth.refresh(dry_run=True)
    assert (run["status"], retraction(run), truth.quotes) == ("succeeded", (8, 2, 0), before)
    assert run["retraction"]["samples"] == [
        {
            "source_asset_id": "btc",
            "quote_currency": "USD",
            "observed_at": f"2026-01-0{day}T00:00:00+00:00",
            "price": "1",
            "run": str(loaded_by),
            "partition": "btc.csv",
            "page": 0,
            "file": "btc.csv",
            "line": day + 1,
        }
        for day in (3, 5)
    ]
    assert retraction(truth.refresh()) == (8, 2, 2)


def test_a_refresh_that_would_delete_more_than_half_fails_until_it_is_confirmed(truth: Truth) -> None:
    load_two_files(truth)
    truth.write("btc.csv", row("btc", 1), row("btc", 9))
    (truth.folder / "eth.csv").unlink()
    run = truth.refresh()
    assert (run["status"], run["error_code"], retraction(run)) == ("failed", "too_many_missing", (9, 7, 0))
    assert run["error_detail"].startswith("closes: 7 of the 8 quotes stored before the run are in none of its files")
    assert '"max_retracted": 7' in run["error_detail"]
    assert len(run["retraction"]["samples"]) == 5
    assert len(truth.quotes) == 9
    assert truth.refresh(max_retracted=6)["error_code"] == "too_many_missing"
    assert len(truth.quotes) == 9
    assert retraction(truth.refresh(max_retracted=7)) == (9, 7, 7)
    assert set(truth.quotes) == {"btc01", "btc09"}
    assert truth.bench.one("SELECT count(*) FROM latest_quotes") == 1
    truth.assert_consistent()


def test_a_limit_of_0_allows_no_deletion_and_a_full_refresh_without_missing_quotes(truth: Truth) -> None:
    load_two_files(truth)
    assert truth.refresh(max_retracted=0)["status"] == "succeeded"
    truth.write("btc.csv", *days("btc", range(1, 5)))
    assert truth.refresh(max_retracted=0)["error_code"] == "too_many_missing"


def test_a_quote_stays_while_any_file_has_its_record(truth: Truth) -> None:
    truth.write("a.csv", *days("btc", range(1, 6)))
    truth.write("b.csv", *days("btc", range(3, 8)))
    truth.load()
    truth.write("a.csv", row("btc", 1))
    assert retraction(truth.refresh()) == (7, 1, 1)
    assert "btc02" not in truth.quotes
    truth.assert_consistent()


def test_a_source_that_does_not_replace_keeps_everything(truth: Truth) -> None:
    truth.source = truth_source(replaces=False)
    load_two_files(truth)
    truth.write("btc.csv", *days("btc", range(1, 5)))
    run = truth.refresh()
    assert (run["status"], run["retraction"]) == ("succeeded", None)
    assert len(truth.quotes) == 8
    assert truth.bench.one("SELECT count(*) FROM seen_quotes") == 0
    assert truth.bench.one("SELECT count(unidentified) FROM pages") == 0


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_QUOTES", 2)
    monkeypatch.setattr(batches, "BATCH_LISTINGS", 1)


@pytest.mark.usefixtures("small_batches")
def test_each_slice_continues_where_the_last_one_stopped(truth: Truth) -> None:
    load_two_files(truth)
    truth.write("btc.csv", row("btc", 2), row("btc", 4), row("btc", 6))
    truth.write("eth.csv", *days("eth", range(2, 4)))
    run = truth.finish(truth.bench.request(truth.source, full_refresh=True), task_slice=-1)
    assert (run["status"], retraction(run)) == ("succeeded", (9, 4, 4))
    assert run["claims"] > 10
    assert set(truth.quotes) == {"btc02", "btc04", "btc06", "eth02", "eth03"}
    truth.assert_consistent()


@pytest.mark.usefixtures("small_batches")
def test_a_cancelled_refresh_deletes_nothing_more(truth: Truth) -> None:
    load_two_files(truth)
    truth.write("btc.csv", row("btc", 1))
    run = truth.bench.request(truth.source, full_refresh=True, max_retracted=4)
    while truth.bench.slice(run, task_slice=-1)["retraction"] is None:
        pass
    while truth.bench.run(run)["retraction"]["deleted"] == 0:
        truth.bench.slice(run, task_slice=-1)
    claim = claim_run(truth.bench.engine, run)
    assert claim
    deleted = truth.bench.run(run)["retraction"]["deleted"]
    request_cancel(truth.bench.engine, run)
    work_on(truth.bench.engine, truth.bench.settings, claim)
    assert (truth.bench.run(run)["status"], retraction(truth.bench.run(run))) == ("cancelled", (8, 4, deleted))
    assert len(truth.quotes) == 8 - deleted > 4
    truth.assert_consistent()


@pytest.mark.usefixtures("small_batches")
def test_a_slice_that_lost_its_run_deletes_nothing(truth: Truth) -> None:
    load_two_files(truth)
    truth.write("btc.csv", *days("btc", range(1, 4)))
    run = truth.bench.request(truth.source, full_refresh=True)
    while (truth.bench.slice(run, task_slice=-1)["retraction"] or {}).get("phase") != "delete":
        pass
    before = truth.quotes
    stale = claim_run(truth.bench.engine, run)
    assert stale
    truth.bench.rows("UPDATE runs SET claims = claims + 1 WHERE id = :run", run=run)
    with pytest.raises(ClaimLost):
        work_on(truth.bench.engine, truth.bench.settings, stale)
    assert truth.quotes == before
    truth.bench.rows("UPDATE runs SET status = 'queued' WHERE id = :run", run=run)
    assert (truth.finish(run)["status"], len(truth.quotes)) == ("succeeded", 6)


def test_a_refresh_waits_while_another_run_may_load_pages_of_the_source(truth: Truth) -> None:
    load_two_files(truth)
    truth.write("btc.csv", *days("btc", range(1, 5)))
    other = request_runs(truth.bench.engine, [RunRequest("closes", replay=ReplayParameters())], requested_by="test")[0]
    truth.bench.rows(
        "INSERT INTO checkpoints (source, partition, lease_run, lease_expires)"
        " VALUES ('closes', 'replay:', :run, service_time() - interval '1s')",
        run=other.run,
    )
    waiting = truth.bench.slice(truth.bench.request(truth.source, full_refresh=True))
    assert (waiting["status"], len(truth.quotes)) == ("waiting", 8)
    assert "partition 'replay:' is leased to run" in waiting["waiting_reason"]
    request_cancel(truth.bench.engine, other.run)
    assert (truth.finish(waiting["id"])["status"], len(truth.quotes)) == ("succeeded", 7)


def test_a_replay_is_refused_because_its_pages_have_retracted_quotes(truth: Truth) -> None:
    load_two_files(truth)
    truth.write("btc.csv", *days("btc", range(1, 5)))
    truth.refresh()
    [replay] = request_runs(truth.bench.engine, [RunRequest("closes", replay=ReplayParameters())], requested_by="test")
    run = truth.finish(replay.run)
    assert (run["status"], run["error_code"]) == ("failed", "replay_refused")
    assert len(truth.quotes) == 7


# Real workers

COINS, MINUTES = 3, 2500


def minute_rows(coin: int, minutes: range) -> list[str]:
    return [f"c{coin},1,2026-01-{1 + m // 1440:02}T{m // 60 % 24:02}:{m % 60:02}:00Z\n" for m in minutes]


@pytest.fixture
def workers(processes: Processes, truth: Truth) -> Callable[[], Process]:
    """Return a function that starts a worker process of the source, with fault points in the folder of the truth."""
    faults = truth.folder / "faults"
    faults.mkdir()
    environ = {
        "CSV_DIR": str(truth.folder),
        "EXTRA_SOURCES": "tests.tasks.retraction.closes",
        "KASPARRO_FAULTS": str(faults),
    }
    return lambda: processes.start("worker", **environ)


def armed(truth: Truth) -> set[str]:
    return {file.name for file in (truth.folder / "faults").iterdir()}


def end_with_workers(truth: Truth, run: Any) -> Any:
    """Wait until the run ends. After each kill, expire the claim at once, as if its lease had run out."""
    left = armed(truth)

    def ended() -> Any:
        nonlocal left
        if armed(truth) != left:
            left = armed(truth)
            truth.bench.let_leases_run_out()
        reconcile(truth.bench.engine, truth.bench.settings)
        row = truth.bench.run(run)
        return row if row["finished_at"] else None

    return until(ended, within=60, what=f"the run ended: {truth.bench.run(run)}")


def test_workers_killed_at_each_fault_point_delete_each_missing_quote_once(
    truth: Truth, workers: Callable[[], Process]
) -> None:
    """Two workers share the run, so each kill leaves the other one to continue."""
    for coin in range(COINS):
        truth.write(f"c{coin}.csv", *minute_rows(coin, range(MINUTES)))
    truth.load()
    for coin in range(COINS):
        truth.write(f"c{coin}.csv", *minute_rows(coin, range(0, MINUTES, 2)))
    points = get_args(RetractionPoint)
    for point in points:
        (truth.folder / "faults" / point).write_text("SIGKILL")
    run = truth.bench.request(truth.source, full_refresh=True)
    for _ in range(2):
        workers()
    row = end_with_workers(truth, run)
    assert armed(truth) == set()
    missing = COINS * MINUTES // 2
    assert (row["status"], retraction(row)) == ("succeeded", (COINS * MINUTES, missing, missing))
    assert row["claims"] > len(points)
    assert truth.bench.one("SELECT count(*) FROM quotes") == COINS * MINUTES - missing
    assert truth.bench.one("SELECT count(*) FROM quotes WHERE extract(minute FROM observed_at)::int % 2 = 1") == 0
    truth.assert_consistent()
    assert truth.bench.one("SELECT count(*) FROM seen_quotes") == COINS * MINUTES - missing
    assert delete_seen(truth.bench.engine)
    assert truth.bench.one("SELECT count(*) FROM seen_quotes") == 0
