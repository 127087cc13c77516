"""Test the row of a page: each item has one outcome."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sources import LEFT_OUT, Source
from store.tables import OUTCOMES
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

LEFT = {"left": "out"}


def daily(*items: Any) -> Source:
    """Return a source that leaves out LEFT."""
    return canned(items, parse=lambda page: [LEFT_OUT if item == LEFT else item for item in json.loads(page.body)])


def test_each_item_has_one_outcome(bench: Bench) -> None:
    bench.ingest(daily(item(0)))
    bench.ingest(daily(LEFT, item(0), item(1), item(1), item(2, price="much"), LEFT, item(0, price="9")))
    [page] = bench.rows("SELECT * FROM pages ORDER BY committed_at DESC LIMIT 1")
    counted = {name: page[name] for name in OUTCOMES if page[name]}
    assert counted == {"left_out": 2, "updated": 1, "inserted": 1, "deduplicated": 2, "rejected": 1}
    assert page["fetched"] == 7


def test_a_page_whose_items_are_all_left_out_is_counted(bench: Bench) -> None:
    bench.ingest(daily(LEFT, LEFT))
    [page] = bench.rows("SELECT fetched, left_out FROM pages")
    assert (page["fetched"], page["left_out"]) == (2, 2)


@pytest.mark.parametrize("others", [0, 3])
def test_the_index_of_a_reject_counts_only_items_that_are_not_left_out(bench: Bench, others: int) -> None:
    bench.ingest(daily(*[LEFT] * others, item(0), item(1, price="much"), item(2)))
    assert bench.one("SELECT item_index FROM rejects") == 1
