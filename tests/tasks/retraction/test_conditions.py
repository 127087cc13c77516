"""Test that a full refresh that may not know every record deletes nothing, and says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tasks.conftest import Bench
from tests.tasks.retraction.closes import truth_source
from tests.tasks.retraction.whole_truth import DAY, HEADER, Truth, days, row, truth_in


def load(truth: Truth) -> None:
    """Load five days of btc and of eth."""
    for coin in ("btc", "eth"):
        truth.write(f"{coin}.csv", *days(coin, range(1, 6)))
    truth.load()


def assert_incomplete(truth: Truth, reason: str) -> None:
    before = truth.quotes
    for parameters in ({"dry_run": True}, {"max_retracted": 100}):
        run = truth.refresh(**parameters)
        assert (run["status"], run["error_code"]) == ("failed", "refresh_incomplete"), run["error_detail"]
        assert run["error_detail"].startswith("closes: no quote was retracted, because ")
        assert reason in run["error_detail"]
        assert truth.quotes.keys() >= before.keys()
    truth.assert_consistent()


@pytest.mark.parametrize(
    "record",
    ["btc,1,31.02.2026\n", "btc,1\n", ",1," + DAY.format(2) + "\n", "btc,\0," + DAY.format(2) + "\n"],
    ids=["time", "ragged", "listing", "encoding"],
)
def test_a_reject_whose_listing_or_time_is_unknown_prevents_it(truth: Truth, record: str) -> None:
    load(truth)
    truth.write("btc.csv", row("btc", 1), record)
    assert_incomplete(truth, "the listing or the time of a record is unknown in btc.csv (1 in the run)")


def test_a_rejected_record_keeps_its_stored_quote(truth: Truth) -> None:
    load(truth)
    records = [row("btc", 1, "n/a"), row("btc", 2, ""), row("btc", 3, -1), row("btc", 4), row("never", 4, "x")]
    truth.write("btc.csv", *records)
    run = truth.refresh()
    assert (run["status"], run["retraction"]["deleted"]) == ("partial", 1)
    assert truth.quotes.keys() == {"btc01", "btc02", "btc03", "btc04", "eth01", "eth02", "eth03", "eth04", "eth05"}
    truth.assert_consistent()


def test_a_record_in_a_rejected_row_of_several_prices_keeps_the_stored_quotes_of_all(truth: Truth) -> None:
    columns = {"source_asset_id": "coin", "symbol": "coin", "name": "coin", "observed_at": "time"}
    currencies = {"USD": {"price": "usd"}, "EUR": {"price": "eur"}}
    truth.source = truth_source(columns=columns, constants={}, currencies=currencies)
    path = truth.folder / "two.csv"
    path.write_text("coin,usd,eur,time\n" + "".join(f"btc,1,2,{DAY.format(day)}\n" for day in (1, 2, 3)))
    truth.load()
    path.write_text(f"coin,usd,eur,time\nbtc,n/a,2,{DAY.format(1)}\nbtc,1,n/a,{DAY.format(2)}\n")
    assert (truth.refresh()["retraction"]["deleted"], len(truth.quotes)) == (2, 2)
    assert truth.bench.one("SELECT count(*) FROM quotes") == 4


def test_a_last_record_without_a_line_end_prevents_it(truth: Truth) -> None:
    load(truth)
    truth.write("btc.csv", row("btc", 1), row("btc", 2).rstrip())
    assert_incomplete(truth, "waits because it may be cut")


def test_an_empty_file_prevents_it(truth: Truth) -> None:
    load(truth)
    (truth.folder / "btc.csv").write_bytes(b"")
    assert_incomplete(truth, "btc.csv is empty, and may be about to be written")


def test_a_file_with_only_a_header_has_no_records(truth: Truth) -> None:
    load(truth)
    (truth.folder / "btc.csv").write_text(HEADER)
    assert (truth.refresh()["status"], truth.quotes.keys()) == ("succeeded", {f"eth0{day}" for day in range(1, 6)})
    truth.assert_consistent()


def test_a_folder_without_files_prevents_it(truth: Truth) -> None:
    load(truth)
    for file in truth.folder.glob("*.csv"):
        file.unlink()
    assert_incomplete(truth, "no quote was read")


def test_an_unreadable_file_prevents_it(truth: Truth) -> None:
    load(truth)
    truth.write("btc.csv", row("btc", 1))
    (truth.folder / "eth.csv").write_text("other,columns\n")
    run = truth.refresh(max_retracted=100)
    assert (run["error_code"], run["retraction"], len(truth.quotes)) == ("columns_missing", None, 10)


def refresh_and_change(truth: Truth, change: Callable[[], object], slices: int = 1) -> str:
    """Start a full refresh, change something after some slices of one page, and return the error of the run."""
    run = truth.bench.request(truth.source, full_refresh=True, max_retracted=100)
    for _ in range(slices):
        truth.bench.slice(run, task_slice=-1)
    change()
    row = truth.finish(run, task_slice=-1)
    return f"{row['status']} {row['error_code']}: {row['error_detail']}"


def test_a_file_that_changes_after_it_was_read_prevents_it(truth: Truth) -> None:
    load(truth)
    # With one page a slice, the second slice finishes btc.csv and reads eth.csv.
    error = refresh_and_change(truth, lambda: truth.write("btc.csv", row("btc", 1)), slices=2)
    assert error.startswith("failed refresh_incomplete: closes: no quote was retracted, because btc.csv changed after")
    assert len(truth.quotes) == 10


def test_a_file_that_changes_while_it_is_read_prevents_it(truth: Truth) -> None:
    load(truth)
    error = refresh_and_change(truth, lambda: truth.write("btc.csv", row("btc", 1)))
    assert "btc.csv changed while it was read" in error
    assert len(truth.quotes) == 10


def test_a_page_of_a_worker_of_an_earlier_version_prevents_it(truth: Truth) -> None:
    load(truth)
    error = refresh_and_change(truth, lambda: truth.bench.rows("UPDATE pages SET unidentified = NULL"))
    assert "btc.csv was read by a worker of an earlier version" in error
    assert len(truth.quotes) == 10


def test_a_file_that_appears_meanwhile_is_read_first(truth: Truth) -> None:
    load(truth)
    truth.write("btc.csv", row("btc", 1))
    error = refresh_and_change(truth, lambda: truth.write("more.csv", *days("btc", range(2, 5))), slices=2)
    assert error.startswith("succeeded")
    assert truth.quotes.keys() == {"btc01", "btc02", "btc03", "btc04", *(f"eth0{day}" for day in range(1, 6))}
    truth.assert_consistent()


def test_a_large_file_is_compared_as_a_whole(bench: Bench, tmp_path: object) -> None:
    """Several workers can load the file's ranges. The rewritten file is shorter, so some ranges are gone."""
    sizes = {"CSV_BLOCK_BYTES": "400", "CSV_RECORD_BYTES": "100", "CSV_RANGE_BYTES": "600"}
    with truth_in(bench, tmp_path, **sizes) as truth:  # type: ignore[arg-type]
        coins = [row(f"coin{coin:03}", 1 + coin % 28) for coin in range(100)]
        truth.write("large.csv", *coins)
        truth.load()
        truth.write("large.csv", *coins[:10], *coins[30:])
        run = truth.refresh()
        assert (run["status"], run["retraction"]["deleted"], len(truth.quotes)) == ("succeeded", 20, 80)
        assert bench.one("SELECT count(DISTINCT partition) FROM pages WHERE run = :run", run=run["id"]) > 3
        truth.assert_consistent()
