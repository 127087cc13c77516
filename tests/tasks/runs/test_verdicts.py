"""Test that the status of a run is earned, also by later runs that find nothing new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import RowMapping

from sources import FileSet, Source, coingecko, csv_source
from tasks.runs.parameters import ReplayParameters
from tests.field import field_folder
from tests.sources.csv_folder import COIN, environment
from tests.tasks.conftest import Bench
from tests.upstreams import Markets, canned, coins, item

DAY = timedelta(days=1)
ROWS = "2026-01-0{},{}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with environment(CSV_DIR=str(tmp_path)):
        yield tmp_path


def prices(**changes: Any) -> Source:
    columns = {"observed_at": "day", "price": "price"}
    files = FileSet(pattern="*.csv", columns=columns, constants=COIN, times=("%Y-%m-%d",), complete=True)
    return replace(csv_source("prices", DAY, (files,)), **changes)


def verdict(run: RowMapping) -> tuple[str, str | None]:
    return run["status"], run["error_code"]


def priceless(good: int, bad: int) -> list[dict[str, Any]]:
    return [item(number, price="1" if number < good else None) for number in range(good + bad)]


# Rejected content


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        (5, 5, ("succeeded", None)),
        (4, 5, ("partial", "mostly_rejected")),
        (0, 5, ("failed", "nothing_loaded")),
        (0, 0, ("succeeded", None)),
    ],
)
def test_a_run_whose_items_are_mostly_without_a_price_is_not_a_success(
    bench: Bench, good: int, bad: int, expected: tuple[str, str | None]
) -> None:
    assert verdict(bench.ingest(canned(priceless(good, bad)))) == expected


def test_one_poor_page_among_good_pages_makes_a_run_partial(bench: Bench) -> None:
    run = bench.ingest(canned([item(number) for number in range(20)], priceless(1, 3)))
    assert verdict(run) == ("partial", "mostly_rejected")


def test_a_source_declares_the_least_share_of_good_items(bench: Bench) -> None:
    assert verdict(bench.ingest(canned(priceless(1, 9), least_good=0.1))) == ("succeeded", None)
    assert verdict(bench.ingest(canned(priceless(9, 1), least_good=1.0))) == ("partial", "mostly_rejected")


def test_a_refused_file_stays_refused_until_its_newest_content_is_good(bench: Bench, folder: Path) -> None:
    file = folder / "a.csv"
    file.write_text("day,price\n" + ROWS.format(1, "much"))
    assert verdict(bench.ingest(prices())) == ("failed", "nothing_loaded")
    looked_again = bench.ingest(prices())
    assert verdict(looked_again) == ("failed", "nothing_loaded")
    assert "a.csv" in looked_again["error_detail"]
    with file.open("a") as lines:
        lines.write(ROWS.format(2, "2"))
    assert verdict(bench.ingest(prices())) == ("succeeded", None)
    assert verdict(bench.ingest(prices())) == ("succeeded", None)


def test_one_refused_file_among_good_files_stays_partial(bench: Bench, folder: Path) -> None:
    for name, price in (("a", "1"), ("b", "much"), ("c", "3")):
        (folder / f"{name}.csv").write_text("day,price\n" + ROWS.format(1, price))
    assert verdict(bench.ingest(prices())) == ("partial", "nothing_loaded")
    run = bench.ingest(prices())
    assert verdict(run) == ("partial", "nothing_loaded")
    assert "b.csv" in run["error_detail"]


def test_content_that_is_refused_stays_refused_after_a_cancelled_run(bench: Bench, folder: Path) -> None:
    for name in "ab":
        (folder / f"{name}.csv").write_text("day,price\n" + ROWS.format(1, "much" if name == "a" else "1"))
    run = bench.request(prices())
    bench.slice(run, task_slice=0)
    bench.rows("UPDATE runs SET cancel_requested = true WHERE id = :run", run=run)
    assert bench.slice(run)["status"] == "cancelled"
    assert verdict(bench.ingest(prices())) == ("partial", "nothing_loaded")


def test_a_replay_that_loads_the_refused_content_clears_the_verdict(bench: Bench) -> None:
    refused = canned([item(price="1,5")])
    assert verdict(bench.ingest(refused)) == ("failed", "nothing_loaded")
    mended = replace(refused, normalize=lambda item: {**item, "price": item["price"].replace(",", ".")})
    replay = bench.ingest(mended, replay=ReplayParameters())
    assert verdict(replay) == ("succeeded", None)
    assert bench.one("SELECT verdict FROM checkpoints WHERE partition = ''") is None


def test_a_file_with_trailing_commas_stays_refused(bench: Bench) -> None:
    row = {"source_asset_id": "symbol", "symbol": "symbol", "name": "name", "observed_at": "time", "price": "price"}
    usd = {"quote_currency": "USD"}
    files = FileSet(pattern="a.csv", columns=row, constants=usd, complete=True)
    with environment(CSV_DIR=str(field_folder("all_rejected_turns_green"))):
        source = csv_source("trailing", DAY, (files,))
        assert [verdict(bench.ingest(source)) for _ in range(3)] == [("failed", "nothing_loaded")] * 3


# Missing partitions


def test_a_folder_that_lost_its_files_fails_its_source(bench: Bench, folder: Path) -> None:
    file = folder / "a.csv"
    file.write_text("day,price\n" + ROWS.format(1, "1"))
    assert verdict(bench.ingest(prices())) == ("succeeded", None)
    file.rename(folder / "a.txt")
    run = bench.ingest(prices())
    assert verdict(run) == ("failed", "partitions_missing")
    assert "a.csv" in run["error_detail"]
    (folder / "a.txt").rename(file)
    assert verdict(bench.ingest(prices())) == ("succeeded", None)


def test_a_missing_file_among_others_makes_runs_partial(bench: Bench, folder: Path) -> None:
    for name in "ab":
        (folder / f"{name}.csv").write_text("day,price\n" + ROWS.format(1, "1"))
    bench.ingest(prices())
    (folder / "a.csv").unlink()
    assert verdict(bench.ingest(prices())) == ("partial", "partitions_missing")
    assert bench.one("SELECT count(*) FROM checkpoints WHERE missing_since IS NOT NULL") == 1
    assert verdict(bench.ingest(prices())) == ("partial", "partitions_missing")


def test_a_file_that_shrinks_below_one_of_its_ranges_is_not_missing(bench: Bench, folder: Path) -> None:
    file = folder / "a.csv"
    with environment(CSV_DIR=str(folder), CSV_RANGE_BYTES="40", CSV_BLOCK_BYTES="40", CSV_RECORD_BYTES="30"):
        file.write_text("day,price\n" + "".join(ROWS.format(day, day) for day in range(1, 9)))
        bench.ingest(prices())
        ranges = bench.one("SELECT count(*) FROM checkpoints")
        file.write_text("day,price\n" + ROWS.format(1, 1))
        assert verdict(bench.ingest(prices())) == ("succeeded", None)
    assert ranges > 1


def test_files_that_may_be_removed_are_not_missed(bench: Bench, folder: Path) -> None:
    file = folder / "a.csv"
    file.write_text("day,price\n" + ROWS.format(1, "1"))
    source = prices(partitions_stay=False)
    bench.ingest(source)
    file.unlink()
    assert verdict(bench.ingest(source)) == ("succeeded", None)


def test_a_source_that_never_had_a_file_misses_none(bench: Bench, folder: Path) -> None:
    assert verdict(bench.ingest(prices())) == ("succeeded", None)


# Expectations


def test_a_run_with_fewer_items_than_expected_is_partial(bench: Bench) -> None:
    run = bench.ingest(canned([item(0), item(1)], expects=3))
    assert verdict(run) == ("partial", "too_few_items")
    assert run["error_detail"] == "2 items, where the source expects 3 or more."
    assert verdict(bench.ingest(canned([item(0), item(1)], [item(2)], expects=3))) == ("succeeded", None)
    assert verdict(bench.ingest(canned([], expects=1))) == ("partial", "too_few_items")


def test_a_run_that_reads_nothing_new_is_not_short(bench: Bench, folder: Path) -> None:
    (folder / "a.csv").write_text("day,price\n" + ROWS.format(1, "1"))
    assert verdict(bench.ingest(prices(expects=1))) == ("succeeded", None)
    assert verdict(bench.ingest(prices(expects=1))) == ("succeeded", None)


# Unchanged responses


def test_an_unchanged_response_keeps_the_verdict_of_its_body(
    bench: Bench, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = coins(5)
    markets = Markets(httpserver, [{**coin, "current_price": None} for coin in listed[:4]] + listed[4:])
    monkeypatch.setenv("COINGECKO_URL", markets.url)
    first, unchanged = (bench.ingest(coingecko.source) for _ in range(2))
    assert verdict(first) == verdict(unchanged) == ("partial", "mostly_rejected")
    assert bench.one("SELECT sum(fetched) FROM pages WHERE run = :run", run=unchanged["id"]) == 0
    markets.coins = listed
    assert verdict(bench.ingest(coingecko.source)) == ("succeeded", None)
    assert verdict(bench.ingest(coingecko.source)) == ("succeeded", None)


def test_an_unchanged_short_response_stays_short(
    bench: Bench, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    markets = Markets(httpserver, coins(5))
    monkeypatch.setenv("COINGECKO_URL", markets.url)
    source = replace(coingecko.source, expects=6)
    assert [verdict(bench.ingest(source)) for _ in range(2)] == [("partial", "too_few_items")] * 2
    markets.coins = coins(6)
    assert [verdict(bench.ingest(source)) for _ in range(2)] == [("succeeded", None)] * 2
