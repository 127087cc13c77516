"""Test that each item of a page becomes a quote or a reject, and that an invalid item affects no other item."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import polars as pl
import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from sources.contract import BLANK, Columns, Item, Page, Reject, Source, TerminalError
from sources.reject_codes import MAX_REJECTS_PER_PAGE
from tasks.drift.changes import Change
from tasks.drift.policy import PageDrift
from tasks.pipeline.normalize import MAX_ITEM_CHARS, SAMPLE_ITEMS, SAMPLE_ROWS, NormalizedPage, normalize_page
from tests.tasks.conftest import Bench
from tests.tasks.counters import counters
from tests.upstreams import FETCHED, OBSERVED, canned, item

PAGE = Page(b"", "application/json", {}, FETCHED, None)


def normalize(*items: Any, **changes: Any) -> NormalizedPage:
    """Normalize a page of these items, without tolerance for clock skew."""
    return normalize_page(canned(parse=lambda _: list(items), **changes), PAGE, clock_skew=0)


class Unprintable(Exception):
    def __repr__(self) -> str:
        return self.missing  # type: ignore[attr-defined,no-any-return]  # the error under test


class Nul(Exception):
    def __repr__(self) -> str:
        return "a\x00b"


# Errors of the mapping


def test_an_error_of_the_mapping_rejects_only_its_item(bench: Bench) -> None:
    def strip_price(fields: dict[str, str]) -> dict[str, str]:
        return fields | {"price": fields["price"].strip()}

    run = bench.ingest(canned([item(0), item(1, price=None), item(2)], normalize=strip_price))
    assert (run["status"], counters(bench, run["id"])) == ("partial", (3, 2, 0, 0, 0, 1))
    [reason] = bench.one("SELECT reasons FROM rejects")
    assert reason["code"] == "unmappable"
    error = "AttributeError(\"'NoneType' object has no attribute 'strip'\")"
    assert f"failed: {error} (tests/tasks/pipeline/test_normalize.py:" in reason["detail"]


@pytest.mark.parametrize(
    ("error", "text"), [(ValueError(10**5000), "ValueError"), (Unprintable(), "Unprintable"), (Nul(), "ab")]
)
def test_an_unprintable_error_of_the_mapping_rejects_only_its_item(bench: Bench, error: Exception, text: str) -> None:
    def fail_on_odd(fields: dict[str, str]) -> dict[str, str]:
        if fields["price"] == "odd":
            raise error
        return fields

    run = bench.ingest(canned([item(0), item(1, price="odd")], normalize=fail_on_odd))
    assert (run["status"], counters(bench, run["id"])) == ("partial", (2, 1, 0, 0, 0, 1))
    [reason] = bench.one("SELECT reasons FROM rejects")
    assert f"failed: {text} (tests/tasks/pipeline/test_normalize.py:" in reason["detail"]


def test_a_mapping_that_returns_none_rejects_only_its_item(bench: Bench) -> None:
    source = canned(
        [item(0), item(1, price="none")], normalize=lambda fields: None if fields["price"] == "none" else fields
    )
    run = bench.ingest(source)
    assert (run["status"], counters(bench, run["id"])) == ("partial", (2, 1, 0, 0, 0, 1))
    [reason] = bench.one("SELECT reasons FROM rejects")
    expected = f"the mapping of {source.name} returned NoneType, expected a mapping of fields (tests/"
    assert reason["detail"].startswith(expected)


def test_the_soft_time_limit_is_not_reported_as_an_error_of_the_mapping() -> None:
    def run_out_of_time(fields: dict[str, str]) -> dict[str, str]:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        normalize(item(0), normalize=run_out_of_time)


# Items of every kind


def test_items_with_nul_nan_or_invalid_characters_are_rejected(bench: Bench) -> None:
    odd = [item(1, name="a\x00b"), item(2, name="\ud800"), item(3, price="NaN"), item(4, price=None, x="\x00\ud800")]
    run = bench.ingest(canned([item(0), *odd]))
    assert (run["status"], counters(bench, run["id"])) == ("partial", (5, 1, 0, 0, 0, 4))


def test_every_item_is_counted_by_its_outcome(bench: Bench) -> None:
    def parse(page: object) -> list[object]:
        return [
            item(0),
            BLANK,
            item(1),
            item(1, price="2"),
            Reject("", "ragged", "3 cells, expected 4", item=["a"]),
            item(2, price="-1"),
        ]

    bench.ingest(canned([item(0)]))
    run = bench.ingest(canned([item(0)], parse=parse, fetched_at=FETCHED + timedelta(hours=1)))
    assert counters(bench, run["id"]) == (5, 1, 0, 1, 1, 2)
    assert bench.one("SELECT sum(blank) FROM pages") == 1
    assert bench.one("SELECT price FROM quotes JOIN listings l ON l.id = listing_id WHERE symbol = 'C1'") == 2


def test_a_time_after_the_fetch_time_plus_the_clock_skew_is_rejected(bench: Bench) -> None:
    ahead = (FETCHED + timedelta(seconds=bench.settings.clock_skew + 1)).isoformat()
    run = bench.ingest(canned([item(0), item(1, observed_at=ahead)]))
    assert run["status"] == "partial"
    assert bench.one("SELECT reasons->0->>'code' FROM rejects") == "in_future"


def test_the_clock_skew_extends_the_latest_accepted_time() -> None:
    source = canned(parse=lambda _: [item(observed_at=(FETCHED + timedelta(seconds=60)).isoformat())])
    accepted, rejected = (normalize_page(source, PAGE, clock_skew=seconds) for seconds in (60, 59))
    assert (len(accepted.quotes), accepted.has_reject("in_future")) == (1, False)
    assert (len(rejected.quotes), rejected.has_reject("in_future"), rejected.has_reject("no_price")) == (0, True, False)


def test_the_index_of_a_reject_does_not_count_blank_items() -> None:
    unreadable = Reject("", "ragged", "3 cells, expected 4", item=["a"])
    normalized = normalize(BLANK, item(0), unreadable, BLANK, item(1, price="x"), item(2))
    assert [(reject.index, json.loads(reject.item)) for reject in normalized.rejects] == [
        (1, ["a"]),
        (2, item(1, price="x")),
    ]
    assert (normalized.fetched, normalized.blank, len(normalized.quotes)) == (4, 2, 2)


def test_numbers_and_times_may_be_python_objects_or_text() -> None:
    normalized = normalize(item(0, price=Decimal("1.50"), rank=3, observed_at=OBSERVED), item(1, price=True))
    [quote] = normalized.quotes
    assert (quote.price, quote.rank, quote.observed_at) == (Decimal("1.50"), 3, OBSERVED)
    assert [reason["code"] for reason in normalized.rejects[0].reasons] == ["not_a_number"]


# The text of rejected items


def test_the_text_of_a_long_rejected_item_is_truncated() -> None:
    [reject] = normalize(item(0, price="x", note="y" * MAX_ITEM_CHARS)).rejects
    assert len(reject.item) == MAX_ITEM_CHARS
    assert reject.item.startswith('{"source_asset_id": "coin-0"')


def test_a_page_with_too_many_items_is_refused_with_its_first_items() -> None:
    endless = canned(parse=lambda _: map(item, count()))
    with pytest.raises(TerminalError, match=r"more than 3 items; .* raise MAX_PAGE_ITEMS .*coin-0.*coin-2") as error:
        normalize_page(endless, PAGE, 0, max_items=3)
    assert error.value.code == "page_too_large"
    assert normalize_page(canned(parse=lambda _: map(item, range(3))), PAGE, 0, max_items=3).fetched == 3


def test_of_many_rejects_only_the_first_are_kept_and_all_are_counted() -> None:
    items = [item(n, price="x") for n in range(MAX_REJECTS_PER_PAGE + 5)]
    normalized = normalize(*items, item(0, symbol=""))
    assert [reject.index for reject in normalized.rejects] == list(range(MAX_REJECTS_PER_PAGE))
    assert (normalized.fetched, normalized.rejected, normalized.deduplicated) == (len(items) + 1, len(items) + 1, 0)
    assert normalized.has_reject("empty")
    assert normalized.last_known_index == MAX_REJECTS_PER_PAGE - 1
    assert normalized.other_rejects != normalize(*items, item(1, symbol="")).other_rejects
    assert normalize(*items[:5]).last_known_index == 5


def test_a_rejected_item_that_is_invalid_in_json_is_stored_as_its_repr() -> None:
    circle: list[Any] = []
    circle.append(circle)
    odd_key, cycle, digits = normalize(
        Reject("", "odd", "odd", item={(1, 2): "é"}),
        Reject("", "odd", "odd", item=circle),
        Reject("", "odd", "odd", item=10**5000),
    ).rejects
    assert (odd_key.item, cycle.item) == ("{(1, 2): '\\xe9'}", "[[...]]")
    assert digits.item == "int", "a number with too many digits is stored as its type"


# The sample that is examined for drift


class Examiner:
    """A stub of the drift examiner that records its samples."""

    def __init__(self, drift: PageDrift | None = None):
        self.samples: list[list[Item]] = []
        self._drift = drift or PageDrift()

    def __call__(self, page: Page, sample: Sequence[Item]) -> PageDrift:
        self.samples.append(list(sample))
        return self._drift


@pytest.mark.parametrize("count", [1, SAMPLE_ITEMS - 1, SAMPLE_ITEMS, 2 * SAMPLE_ITEMS + 5])
def test_drift_examines_evenly_spaced_items_of_a_page(count: int) -> None:
    items = [item(number) for number in range(count)]
    examiner = Examiner()
    normalize_page(canned(parse=lambda _: items), PAGE, 0, examiner)
    [sample] = examiner.samples
    positions = [int(fields["source_asset_id"].removeprefix("coin-")) for fields in sample]
    gap = positions[1] if count > 1 else 1
    assert positions == list(range(0, count, gap))
    assert SAMPLE_ITEMS / 3 < len(sample) <= SAMPLE_ITEMS or sample == items


def columnar(items: Sequence[dict[str, Any]], apart: dict[int, Item]) -> Source:
    """Return a source that parses its pages to columns. apart: items without a row, by index."""
    rows = [{"item": index, **fields} for index, fields in enumerate(items) if index not in apart]
    frame = pl.DataFrame(rows, schema_overrides={"item": pl.UInt32})
    columns = Columns(frame, items.__getitem__, len(items), 0, apart)
    return replace(canned(parse=lambda _: items), columns=lambda _: columns)


def test_drift_examines_the_first_rows_of_a_columnar_page() -> None:
    items = [item(number) for number in range(SAMPLE_ROWS + 5)]
    examiner = Examiner()
    source = columnar(items, apart={2: Reject("", "ragged", "3 cells, expected 4", item=["a"])})
    normalized = normalize_page(source, PAGE, 0, examiner)
    assert examiner.samples == [[*items[:2], *items[3:SAMPLE_ROWS]]]
    assert (normalized.fetched, len(normalized.quotes), len(normalized.rejects)) == (len(items), len(items) - 1, 1)


def test_a_columnar_page_with_a_change_that_affects_items_is_parsed_item_by_item() -> None:
    drift = PageDrift([(Change("retyped", "market_cap", "string", "number", 1.0), "discard")])
    items = [item(0, market_cap=7), item(1, market_cap="8")]
    source = replace(columnar([item(0), item(1)], apart={}), parse=lambda _: items)
    quotes = normalize_page(source, PAGE, 0, Examiner(drift)).quotes
    assert {quote.symbol: quote.market_cap for quote in quotes} == {"C0": None, "C1": 8}


# Memory


def test_a_page_with_rejects_is_freed_without_the_garbage_collector() -> None:
    items = [item(0, price="much"), item(1), Reject("", "unreadable", "expected a record, got none")]
    source = canned(parse=lambda _: items)
    page = Page(b"", "application/json", {}, FETCHED, None)
    gc.disable()
    try:
        assert len(normalize_page(source, page, clock_skew=300).rejects) == 2
        reference = weakref.ref(page)
        del page
        assert reference() is None
    finally:
        gc.enable()
