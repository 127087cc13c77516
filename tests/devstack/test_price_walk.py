"""Test simulated prices: they change slightly at each step, and the numbers of a record stay consistent."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from itertools import pairwise

from devstack.recorded_upstreams import STEP
from tests.devstack.recordings import NOON, read_recording, records_at


def test_a_price_changes_slightly_at_each_step_and_stays_near_the_recorded_price() -> None:
    recording = read_recording("coinpaprika")
    recording.records = recording.records[:1]
    bitcoins = [json.loads(recording.at(NOON + step * STEP)[0], parse_float=Decimal) for step in range(200)]
    prices = [bitcoin["quotes"]["USD"]["price"] for bitcoin in bitcoins]
    assert len(set(prices)) == len(prices)
    assert all(abs(after / before - 1) < Decimal("0.01") for before, after in pairwise(prices))
    assert all(abs(price / prices[0] - 1) < Decimal("0.1") for price in prices)


def test_numbers_that_depend_on_a_price_are_consistent_with_it() -> None:
    checked = 0
    for coin in records_at("coingecko", NOON):
        price, change, since = (
            coin[name] for name in ("current_price", "price_change_24h", "price_change_percentage_24h")
        )
        if price is None or coin["low_24h"] is None:
            continue
        assert coin["low_24h"] <= price <= coin["high_24h"], coin["id"]
        if price > 1000:
            assert abs(change / (price - change) * 100 - since) < Decimal("0.1"), coin["id"]
            market_cap = price * Decimal(coin["circulating_supply"])
            assert abs(coin["market_cap"] / market_cap - 1) < Decimal("0.01"), coin["id"]
            checked += 1
    assert checked >= 4


def test_a_coin_has_about_the_same_price_at_both_upstreams() -> None:
    coinpaprika = next(coin for coin in records_at("coinpaprika", NOON) if coin["id"] == "btc-bitcoin")
    coingecko = next(coin for coin in records_at("coingecko", NOON) if coin["id"] == "bitcoin")
    assert abs(coinpaprika["quotes"]["USD"]["price"] / coingecko["current_price"] - 1) < Decimal("0.02")


def test_numbers_keep_the_format_of_their_upstream() -> None:
    go, ruby = (b"\n".join(read_recording(name).at(NOON)) for name in ("coinpaprika", "coingecko"))
    assert re.search(rb'"price":\d(\.\d+)?e-\d[,}]', go)
    assert not re.search(rb'"price":0\.000000|e-0|\d\.\d*0[,}]', go)
    assert re.search(rb'"current_price":\d(\.\d+)?e-0\d,', ruby)
    assert re.search(rb'"current_price":\d{4,},', ruby)
    assert re.search(rb'"total_supply":4\.2e\+17,', ruby)
    assert not re.search(rb'"current_price":0\.0000', ruby)


def test_missing_values_stay_missing() -> None:
    coinpaprika, coingecko = records_at("coinpaprika", NOON), records_at("coingecko", NOON)
    assert any(coin["rank"] == 0 for coin in coinpaprika)
    assert any(coin["quotes"] and "price" not in coin["quotes"]["USD"] for coin in coinpaprika)
    assert any(coin["quotes"] and coin["quotes"]["USD"].get("price") == 0 for coin in coinpaprika)
    assert any("circulating_supply" not in coin for coin in coinpaprika)
    assert any(coin["id"] == "" for coin in coingecko)
    assert {"current_price", "market_cap_rank", "max_supply", "last_updated", "roi"} <= {
        name for coin in coingecko for name, value in coin.items() if value is None
    }
