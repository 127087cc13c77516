"""CoinGecko's markets: its coins by market cap, 250 a page. https://docs.coingecko.com/reference/coins-markets"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from settings import read_upstream
from sources.contract import (
    Cursor,
    History,
    HistoryWindow,
    Http,
    Item,
    Page,
    Rate,
    Response,
    Source,
    TransientError,
    Upstream,
    Window,
)
from sources.http.json_body import json_list, read_json

EVERY = timedelta(minutes=30)
PER_PAGE = 250
DAY_MS = 86_400_000
PAGES = 4  # at one snapshot every 30 minutes, 5,952 of the 10,000 calls a month that the free plans allow


def fetch(window: Window, http: Http) -> Iterator[Page]:
    """One snapshot. Only the run that began it resumes it, and while it is young: ranks move between two pages."""
    cursor = _resumed(window) or {"run": window.run, "began": window.now.isoformat(), "page": 1}
    last = read_upstream("coingecko").pages or PAGES
    while cursor["page"] <= last:
        reply = http.get("/coins/markets", {"vs_currency": "usd", "per_page": PER_PAGE, "page": cursor["page"]})
        is_full = len(json_list(reply.body)) == PER_PAGE
        cursor = {**cursor, "page": cursor["page"] + 1 if is_full else last + 1}
        yield Page.of(reply, cursor)


def _resumed(window: Window) -> Cursor | None:
    cursor = window.cursor
    if cursor and cursor["run"] == window.run and window.now - datetime.fromisoformat(cursor["began"]) < EVERY:
        return cursor
    return None


def parse(page: Page) -> list[Item]:
    return json_list(page.body)


def normalize(item: Item) -> Mapping[str, Any]:
    return {
        "source_asset_id": item.get("id"),
        "symbol": item.get("symbol"),
        "name": item.get("name"),
        "quote_currency": "USD",
        "observed_at": item.get("last_updated"),
        "price": item.get("current_price"),
        "high": item.get("high_24h"),
        "low": item.get("low_24h"),
        "volume_24h": item.get("total_volume"),
        "market_cap": item.get("market_cap"),
        "change_24h_pct": item.get("price_change_percentage_24h"),
        "rank": item.get("market_cap_rank"),
        "circulating_supply": item.get("circulating_supply"),
        "total_supply": item.get("total_supply"),
        "max_supply": item.get("max_supply"),
    }


def fetch_past(past: HistoryWindow, http: Http) -> Response:
    """A price a day, at 00:00 UTC. Without a paid plan, of the last year. reference/coins-id-market-chart-range"""
    since, until = (int(at.timestamp()) for at in (past.since, past.until))
    asked: dict[str, str | int] = {
        "vs_currency": past.listing["quote_currency"].lower(),
        "from": since,
        "to": until - 1,
        "interval": "daily",
    }
    return http.get(f"/coins/{quote(past.listing['source_asset_id'], safe='')}/market_chart/range", asked)


def parse_past(page: Page) -> Iterator[Item]:
    """Three lists of pairs, of a time and a value: the prices, and what else is known at their times.

    The last may be of the moment of the call, of which the present tells more.
    """
    chart = read_json(page.body)
    if not isinstance(chart, dict) or not isinstance(chart.get("prices"), list):
        raise TransientError("expected lists of prices, market caps and volumes", code="unexpected_body")
    caps, volumes = (dict(_pairs(chart.get(name))) for name in ("market_caps", "total_volumes"))
    for at, price in _pairs(chart["prices"]):
        if isinstance(at, int) and at % DAY_MS:
            continue
        yield {**page.request["listing"], "at": at, "price": price, "cap": caps.get(at), "volume": volumes.get(at)}


def _pairs(them: Any) -> Iterator[tuple[Any, Any]]:
    for pair in them if isinstance(them, list) else ():
        if isinstance(pair, list) and len(pair) == 2:
            yield pair[0] if isinstance(pair[0], int | str) else None, pair[1]


def normalize_past(item: Item) -> Mapping[str, Any]:
    return {
        **{name: item[name] for name in ("source_asset_id", "symbol", "name", "quote_currency")},
        "observed_at": datetime.fromtimestamp(item["at"] / 1000, UTC),
        "price": item["price"],
        "market_cap": item["cap"] or None,
        "volume_24h": item["volume"],
    }


source = Source(
    name="coingecko",
    every=EVERY,
    rate=Rate(per_minute=25, per_month=10_000),
    upstreams={
        "free": Upstream("https://api.coingecko.com/api/v3"),
        "demo": Upstream("https://api.coingecko.com/api/v3", key_header="x-cg-demo-api-key"),
        "pro": Upstream("https://pro-api.coingecko.com/api/v3", key_header="x-cg-pro-api-key"),
    },
    fetch=fetch,
    parse=parse,
    normalize=normalize,
    history=History(span=timedelta(days=90), fetch=fetch_past, parse=parse_past, normalize=normalize_past),
)
