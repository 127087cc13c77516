"""Test the figures of a run, and the comparison of its prices with earlier prices and other sources."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pytest_httpserver import HTTPServer

from tasks.anomalies.figures import (
    MAX_EARLIER_PRICES,
    MIN_EARLIER_PRICES,
    PriceGap,
    PriceJump,
    measure_run,
    price_gaps,
    price_jumps,
)
from tests.tasks.conftest import Bench
from tests.tasks.feed import Feed
from tests.upstreams import FETCHED, OBSERVED, canned, item


def measure(bench: Bench, run: UUID) -> dict[str, float]:
    with bench.engine.connect() as connection:
        return measure_run(connection, run, 1.5)


def observed(minute: float) -> str:
    return (OBSERVED + timedelta(minutes=minute)).isoformat()


def test_the_figures_are_counts_shares_and_seconds(bench: Bench) -> None:
    items = [item(0, rank=1), item(0, rank=1), item(1), item(2, price="much")]
    figures = measure(bench, bench.ingest(canned(items))["id"])
    assert figures["seconds"] == 1.5
    assert figures["lag"] == (FETCHED - OBSERVED).total_seconds()
    assert (figures["items"], figures["rejected"], figures["repeated"]) == (4, 0.25, 0.25)
    assert (figures["null.rank"], figures["null.price"], figures["null.market_cap"]) == (0.5, 0, 1)


def test_a_run_without_quotes_has_only_duration_and_item_count(bench: Bench) -> None:
    assert measure(bench, bench.ingest(canned([]))["id"]) == {"seconds": 1.5, "items": 0}


@pytest.mark.parametrize("etags", [True, False])
def test_items_are_not_counted_if_a_page_was_unchanged(bench: Bench, httpserver: HTTPServer, *, etags: bool) -> None:
    feed = Feed(httpserver, [[item(0)], [item(1)]], etags=etags)
    bench.ingest(feed.source())
    feed.pages = [[item(0)], [item(1, price="2")]]
    assert measure(bench, bench.ingest(feed.source())["id"]).keys() == {"seconds", "lag"}


def ingest_prices(bench: Bench, prices: Sequence[Any], start: int = 0) -> UUID:
    """Ingest consecutive prices of one listing, one per minute. Return the id of the run."""
    items = [item(0, price=str(price), observed_at=observed(start + minute)) for minute, price in enumerate(prices)]
    run: UUID = bench.ingest(canned(items))["id"]
    return run


def jumps(bench: Bench, run: UUID) -> list[PriceJump]:
    with bench.engine.connect() as connection:
        return price_jumps(connection, "canned", run)


def test_a_price_is_compared_with_the_median_of_earlier_prices(bench: Bench) -> None:
    ingest_prices(bench, [10, 1000, 20, 30, 10])
    run = ingest_prices(bench, [60], start=10)
    assert jumps(bench, run) == [PriceJump("coin-0 USD", 3.0)]


def test_a_listing_with_few_earlier_prices_is_not_compared(bench: Bench) -> None:
    ingest_prices(bench, [10] * (MIN_EARLIER_PRICES - 1))
    assert jumps(bench, ingest_prices(bench, [60], start=10)) == []


def test_only_the_latest_earlier_prices_count(bench: Bench) -> None:
    ingest_prices(bench, [1] * MAX_EARLIER_PRICES + [10] * MAX_EARLIER_PRICES)
    assert jumps(bench, ingest_prices(bench, [30], start=50)) == [PriceJump("coin-0 USD", 3.0)]


def test_only_listings_with_their_newest_price_from_this_run_are_compared(bench: Bench) -> None:
    run = ingest_prices(bench, [10] * 6)
    ingest_prices(bench, [60], start=10)
    assert jumps(bench, run) == []


def gaps(bench: Bench, prices: dict[str, tuple[str, float]]) -> list[PriceGap]:
    """Ingest prices of one asset. Return the gaps of the source `own`. prices: (price, minute) by source."""
    for name, (price, minute) in prices.items():
        bench.ingest(canned([item(0, price=price, observed_at=observed(minute))], name=name))
    with bench.engine.connect() as connection:
        return price_gaps(connection, "own")


def test_the_gap_is_the_distance_to_the_nearest_price_of_another_source(bench: Bench) -> None:
    prices = {"own": ("105", 0), "near": ("100", 30), "far": ("50", -30), "later": ("105", 31)}
    assert gaps(bench, prices) == [PriceGap("coin-0", pytest.approx(0.05), others=2)]


def test_an_asset_that_no_other_source_lists_has_no_gap(bench: Bench) -> None:
    assert gaps(bench, {"own": ("105", 0)}) == []
