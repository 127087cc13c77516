"""Test that an item becomes the same quote or reject as in a run, and that two readings of a page are compared."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from settings import get_settings
from sources.contract import BLANK, LEFT_OUT, Page, Reject, Source
from tasks.cli import try_items
from tasks.cli.try_items import TriedPage, find_difference, try_page
from tasks.pipeline.normalize import normalize_page
from tests.upstreams import FETCHED, canned

ITEM = {
    "source_asset_id": "x1",
    "symbol": "BTC",
    "name": "Bitcoin",
    "quote_currency": "USD",
    "observed_at": "2026-01-01T00:00:00Z",
    "price": "1.5",
}


def page_of(*items: Any) -> Page:
    return Page(json.dumps(items).encode(), "application/json", {}, FETCHED, None)


def tried(source: Source, *items: Any) -> TriedPage:
    return try_page(source, "", page_of(*items), get_settings(), is_last=False)


def test_each_item_has_its_quote_or_its_reasons() -> None:
    broken = Reject("row", "ragged", "expected 2 cells", item=[1])
    source = canned(parse=lambda _: [BLANK, ITEM, LEFT_OUT, {**ITEM, "price": "much"}, {}, broken])
    good, wrong, empty, unreadable = tried(source).items
    assert good.quote
    assert str(good.quote.price) == "1.5"
    assert (good.index, good.fields, good.reasons) == (0, ITEM, ())
    assert (wrong.quote, [reason["code"] for reason in wrong.reasons]) == (None, ["not_a_number"])
    assert {reason["code"] for reason in empty.reasons} == {"missing", "no_price"}
    assert (unreadable.index, unreadable.item, unreadable.reasons) == (3, [1], broken.reasons)


def test_only_the_first_items_of_a_large_page_are_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(try_items, "MAX_ITEMS", 2)
    page = tried(canned(), *[ITEM] * 3)
    assert (len(page.items), page.normalized.fetched) == (2, 3)


def test_columns_are_compared_with_rows() -> None:
    assert tried(canned(columns=lambda _: None), ITEM).disagreement is None


@pytest.mark.parametrize(
    ("columns", "rows", "difference"),
    [
        ([ITEM], [ITEM], None),
        ([{**ITEM, "price": "1.50"}], [ITEM], None),
        ([ITEM], [{**ITEM, "rank": 3}], "rank is unknown by `columns`, 3 by `parse`"),
        (
            [ITEM, {**ITEM, "quote_currency": "EUR"}],
            [ITEM],
            "x1 in EUR at 2026-01-01T00:00:00+00:00: a quote by `columns`",
        ),
        ([{}], [{"price": "x"}], "item 0: rejected (expected"),
        ([ITEM, ITEM], [ITEM], "fetched: 2 items by `columns`, 1 by `parse`"),
        ([ITEM, {}], [ITEM], "item 1: rejected (expected a value, got none) by `columns`, not rejected by `parse`"),
    ],
)
def test_the_first_difference_is_named(columns: list[Any], rows: list[Any], difference: str | None) -> None:
    source = replace(canned(), columns=None)
    found = find_difference(*(normalize_page(source, page_of(*items), 0) for items in (columns, rows)))
    assert (found is None) == (difference is None)
    assert difference is None or difference in str(found)
