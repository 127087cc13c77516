"""Test that comparing a page with the stored rows detects its new and changed rows."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from sources.contract import Page
from tasks.pipeline.changed_rows import UNPROVEN, ListingsLost, find_changes
from tasks.pipeline.commit import commit_page
from tests.tasks.conftest import Bench
from tests.tasks.pipeline.conftest import OpenRunOf
from tests.upstreams import FETCHED, OBSERVED, canned, item

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)

# A few numbers in many notations, including long numbers that differ only in their last digit.
SPELLINGS = (
    *("1", "1.0", "+1", "01", "1.", "1e0", "10E-1", "100e-2", "2", "1.00000000000000001", "1.00000000000000002"),
    *("0.000000000123456789012345678", "1.23456789012345678e-10", "123456789012345678e-27", "1.2345678901234567e-10"),
    *("100000000000000000000", "1e20", "100000000000000000001", "0.1e21", ".5", "0.5", "5e-1", "0.50"),
)


def load(bench: Bench, items: list[dict[str, Any]], later: timedelta = HOUR) -> tuple[int, ...]:
    """Load a page fetched `later`. Return the numbers of inserted, updated and unchanged items."""
    run = bench.ingest(canned(items, fetched_at=FETCHED + later))
    [row] = bench.rows("SELECT inserted, updated, unchanged FROM pages WHERE run = :run", run=run["id"])
    return tuple(row.values())


def minutes(*numbers: int, **changes: Any) -> list[dict[str, Any]]:
    return [item(observed_at=(OBSERVED + number * MINUTE).isoformat(), **changes) for number in numbers]


# The comparison


def compare_rows(bench: Bench, open_run: OpenRunOf, items: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """Compare a page of these items with the stored rows. Return the minutes of new rows and of changed rows."""
    rows = open_run(canned(parse=lambda _: items)).rows(Page(b"", "", {}, FETCHED, None))
    with bench.engine.connect() as connection:
        changes = find_changes(connection, rows)
    new, changed = (
        [(time - OBSERVED) // MINUTE for time in part.frame["observed_at"]] for part in (changes.new, changes.changed)
    )
    return new, changed


def test_rows_are_classified_as_new_changed_or_already_stored(bench: Bench, open_run: OpenRunOf) -> None:
    load(bench, minutes(1, 2, 4))
    assert compare_rows(bench, open_run, [*minutes(0, 1), *minutes(2, price="7"), *minutes(3)]) == ([0, 3], [2])


def test_all_rows_of_listings_without_quotes_are_new(bench: Bench, open_run: OpenRunOf) -> None:
    load(bench, [item(1)])
    assert compare_rows(bench, open_run, minutes(0, 1)) == ([0, 1], [])


def test_a_row_that_lacks_a_stored_value_counts_as_changed(bench: Bench, open_run: OpenRunOf) -> None:
    load(bench, minutes(0, rank=3) + minutes(1))
    assert compare_rows(bench, open_run, minutes(0, 1)) == ([], [0])


def test_a_few_rows_far_apart_count_as_changed_without_a_comparison(bench: Bench, open_run: OpenRunOf) -> None:
    load(bench, minutes(*range(1100)))
    assert compare_rows(bench, open_run, minutes(0, 1099, 2000)) == ([], [0, 1099, 2000])


# Loading


def test_another_number_is_a_correction_but_another_notation_is_not(bench: Bench) -> None:
    pairs = list(product(SPELLINGS, SPELLINGS))
    load(bench, [item(number, price=first) for number, (first, _) in enumerate(pairs)])
    corrected = sum(Decimal(first) != Decimal(second) for first, second in pairs)
    counts = load(bench, [item(number, price=second) for number, (_, second) in enumerate(pairs)])
    assert counts == (0, corrected, len(pairs) - corrected)
    prices = bench.rows("SELECT price FROM quotes JOIN listings ON id = listing_id ORDER BY substr(symbol, 2)::int")
    assert [row["price"] for row in prices] == [Decimal(second) for _, second in pairs]


def test_a_value_that_appears_or_disappears_is_a_correction(bench: Bench) -> None:
    long = "12345678901234567890"
    caps = [(None, "1"), ("1", None), (None, None), ("0", None), (None, "0"), (None, long), (long, None)]
    load(bench, [item(number, market_cap=first) for number, (first, _) in enumerate(caps)])
    assert load(bench, [item(number, market_cap=second) for number, (_, second) in enumerate(caps)]) == (0, 6, 1)
    stored = bench.rows("SELECT market_cap FROM quotes ORDER BY listing_id")
    assert [row["market_cap"] for row in stored] == [1, None, None, None, 0, Decimal(long), None]


def test_a_value_that_is_missing_from_the_whole_page_is_removed_from_the_stored_row(bench: Bench) -> None:
    load(bench, [item(0, rank=1), item(1)])
    assert load(bench, [item(0), item(1)]) == (0, 1, 1)
    assert bench.one("SELECT count(rank) FROM quotes") == 0


def test_a_page_writes_only_its_new_and_corrected_quotes(bench: Bench) -> None:
    load(bench, minutes(1, 2, 4, 5))
    before = bench.rows("SELECT observed_at, xmin::text FROM quotes ORDER BY observed_at")
    counts = load(bench, [*minutes(0, 1, 2, 3), *minutes(4, price="7"), *minutes(5, 6)])
    assert counts == (3, 1, 3)
    after = bench.rows("SELECT observed_at, xmin::text FROM quotes ORDER BY observed_at")
    assert [row in after for row in before] == [True, True, False, True]
    assert bench.one("SELECT price FROM quotes WHERE observed_at = :at", at=OBSERVED + 4 * MINUTE) == 7
    assert bench.one("SELECT count(*) FROM quotes") == 7


def test_a_few_rows_far_apart_are_loaded_correctly_despite_many_rows_between_them(bench: Bench) -> None:
    load(bench, minutes(*range(2000)))
    assert load(bench, [*minutes(0), *minutes(1999, price="7"), *minutes(2500)]) == (1, 1, 1)
    assert bench.one("SELECT count(*) FROM quotes") == 2001


def test_a_page_fetched_earlier_adds_missing_quotes_and_corrects_none(bench: Bench) -> None:
    load(bench, minutes(0, 1), later=2 * HOUR)
    assert load(bench, minutes(0, 1, 2, price="7")) == (1, 0, 0)
    assert bench.one("SELECT sum(superseded) FROM pages") == 2
    assert bench.one("SELECT count(*) FROM quotes WHERE price = 7") == 1


def test_times_are_stored_to_the_microsecond(bench: Bench) -> None:
    for offset in (
        timedelta(minutes=1),
        timedelta(seconds=59),
        timedelta(milliseconds=1),
        timedelta(microseconds=999_999),
    ):
        times = [OBSERVED, OBSERVED + offset]
        items = [item(observed_at=time.isoformat(), source_asset_id=f"coin-{offset}") for time in times]
        assert load(bench, items) == (2, 0, 0)
        assert load(bench, items) == (0, 0, 2)
        query = "SELECT observed_at FROM quotes JOIN listings ON id = listing_id WHERE source_asset_id = :id ORDER BY 1"
        assert [row["observed_at"] for row in bench.rows(query, id=f"coin-{offset}")] == times


# The proof of the listings


@pytest.mark.parametrize(
    "lost",
    [
        "DELETE FROM decisions; DELETE FROM listings",
        "UPDATE listings SET source_asset_id = 'coin-1' WHERE source_asset_id = 'coin-0'",
        "UPDATE listings SET quote_currency = 'EUR' WHERE source_asset_id = 'coin-0'",
        "INSERT INTO sources (name) VALUES ('other'); UPDATE listings SET source = 'other'",
    ],
)
def test_a_page_is_not_written_under_an_id_that_no_longer_belongs_to_its_listing(
    bench: Bench, open_run: OpenRunOf, lost: str
) -> None:
    run = open_run(canned(parse=lambda _: minutes(0, 1)))
    page = Page(b"[]", "", {}, FETCHED, {"next": 1})
    rows = run.rows(page)
    bench.rows(lost)
    prepared = run.prepare(page)
    with pytest.raises(ListingsLost, match=r"listings of the page .*: 1"):
        commit_page(bench.engine, run.lease, page, prepared.normalized, rows, prepared.deadline)
    assert [bench.one(f"SELECT count(*) FROM {table}") for table in ("quotes", "latest_quotes", "pages")] == [0, 0, 0]
    run.preparer.forget_listings()
    assert run.commit(bench, page)[1].inserted == 2
    assert bench.rows(LOADED) == [{"source": "canned", "source_asset_id": "coin-0", "quote_currency": "USD", "rows": 2}]


LOADED = """
    SELECT source, source_asset_id, quote_currency, count(*) AS rows
      FROM quotes JOIN listings ON id = listing_id GROUP BY 1, 2, 3
"""


def test_each_listing_of_a_page_is_looked_up_in_an_index(bench: Bench, open_run: OpenRunOf) -> None:
    source = canned(parse=lambda _: [item(number) for number in range(500)])
    rows = open_run(source).rows(Page(b"", "", {}, FETCHED, None))
    with bench.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE listings")
        plan = connection.exec_driver_sql(f"EXPLAIN {UNPROVEN}", dict(rows.proof)).scalars().all()
    assert any("Index Scan" in line for line in plan), plan
    assert not any("Seq Scan" in line for line in plan), plan
