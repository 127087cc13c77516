"""Read CoinGecko's coins, ordered by market cap with 250 per page, and the daily history of a coin.

https://docs.coingecko.com/reference/coins-markets
https://docs.coingecko.com/reference/coins-id-market-chart-range
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from settings import read_source_settings
from sources import (
    LEFT_OUT,
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
    json_list,
    read_json,
)

EVERY = timedelta(minutes=30)
COINS_PER_PAGE = 250
DAY_MS = 86_400_000

MAX_PAGES = 4
"""Number of pages in a snapshot, unless COINGECKO_PAGES is set. With a snapshot every 30 minutes, these take 5,952 of
the 10,000 calls per month that the free plans allow."""


def fetch(window: Window, http: Http) -> Iterator[Page]:
    """Yield the pages of one snapshot.

    Ranks change over time, so pages of different times do not form a snapshot. Only the run that began a snapshot
    resumes it, for at most `EVERY`.
    """
    cursor = _resumable_cursor(window) or {"run": window.run, "began": window.now.isoformat(), "page": 1}
    last_page = read_source_settings("coingecko").pages or MAX_PAGES
    while cursor["page"] <= last_page:
        params: dict[str, str | int] = {"vs_currency": "usd", "per_page": COINS_PER_PAGE, "page": cursor["page"]}
        response = http.get("/coins/markets", params)
        is_full = len(json_list(response.body)) == COINS_PER_PAGE
        cursor = {**cursor, "page": cursor["page"] + 1 if is_full else last_page + 1}
        yield Page.of(response, cursor)


def _resumable_cursor(window: Window) -> Cursor | None:
    """Return the cursor if this run began the snapshot less than `EVERY` ago, otherwise None."""
    cursor = window.cursor
    if cursor and cursor["run"] == window.run and window.now - datetime.fromisoformat(cursor["began"]) < EVERY:
        return cursor
    return None


def parse(page: Page) -> list[Item]:
    """Return the coins of a page."""
    return json_list(page.body)


def normalize(item: Item) -> Mapping[str, Any]:
    """Return a coin as the unified record. CoinGecko sends null for an unknown number."""
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


def fetch_history(window: HistoryWindow, http: Http) -> Response:
    """Request one price per day, at 00:00 UTC. Without a paid plan, CoinGecko serves only the last year."""
    since, until = (int(at.timestamp()) for at in (window.since, window.until))
    params: dict[str, str | int] = {
        "vs_currency": window.listing["quote_currency"].lower(),
        "from": since,
        "to": until - 1,
        "interval": "daily",
    }
    return http.get(f"/coins/{quote(window.listing['source_asset_id'], safe='')}/market_chart/range", params)


def parse_history(page: Page) -> Iterator[Item]:
    """Yield one item for each day, with its price, market cap and volume.

    The body has one list of (time, value) pairs for prices, market caps and volumes. Leave out prices at any time other
    than 00:00 UTC: the last pair may be the current price. Live runs load the current price with more fields.
    """
    chart = read_json(page.body)
    if not isinstance(chart, dict) or not isinstance(chart.get("prices"), list):
        raise TransientError(f"expected an object with a list `prices`, got {str(chart)[:60]}", code="unexpected_body")
    caps, volumes = (dict(_pairs(chart.get(name))) for name in ("market_caps", "total_volumes"))
    for at, price in _pairs(chart["prices"]):
        if isinstance(at, int) and at % DAY_MS:
            yield LEFT_OUT
            continue
        yield {**page.request["listing"], "at": at, "price": price, "cap": caps.get(at), "volume": volumes.get(at)}


def _pairs(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of a list. Replace a time that is neither a number nor text with None."""
    for pair in values if isinstance(values, list) else ():
        if isinstance(pair, list) and len(pair) == 2:
            yield pair[0] if isinstance(pair[0], int | str) else None, pair[1]


def normalize_history(item: Item) -> Mapping[str, Any]:
    """Return a day's item as the unified record. CoinGecko sends 0 for an unknown market cap."""
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
    history=History(span=timedelta(days=90), fetch=fetch_history, parse=parse_history, normalize=normalize_history),
)
