"""Read CoinGecko's coins, ordered by market cap with 250 per page, and the daily history of a coin.

https://docs.coingecko.com/reference/coins-markets
https://docs.coingecko.com/reference/coins-id-market-chart-range
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
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
    NumberedPages,
    Page,
    Rate,
    Reject,
    Response,
    Source,
    TransientError,
    Upstream,
    Window,
    json_list,
    read_json,
)
from sources.quote_currencies import USD, quote_currencies

EVERY = timedelta(minutes=30)
COINS_PER_PAGE = 250
DAY_MS = 86_400_000

MAX_PAGES = 4
"""Number of pages in a snapshot, unless COINGECKO_PAGES is set. With a snapshot every 30 minutes, these take 5,952 of
the 10,000 calls per month that the free plans allow."""


def fetch(window: Window, http: Http) -> Iterator[Page]:
    """Yield the pages of one snapshot.

    Ranks change over time, so pages of different times do not form a snapshot. Only the run that began a snapshot
    resumes it, for at most `EVERY`. With several quote currencies, each has its own pages.
    """
    settings = read_source_settings("coingecko")
    currencies = quote_currencies(source.name)
    numbered = NumberedPages(COINS_PER_PAGE, settings.pages or MAX_PAGES)
    cursor = _resumable_cursor(window) or {"run": window.run, "began": window.now.isoformat(), "page": 1}
    for currency in currencies[cursor.get("currency", 0) :]:
        while cursor["page"]:
            page, cursor = _fetch_page(http, numbered, currency, cursor)
            yield page
        cursor = {**cursor, "currency": cursor.get("currency", 0) + 1, "page": 1, "items": None, "most": 0}


def _fetch_page(http: Http, numbered: NumberedPages, currency: str, cursor: Cursor) -> tuple[Page, dict[str, Any]]:
    """Return the page of coins at a cursor, and the cursor after it. Its `page` is 0 after the last page."""
    number = cursor["page"]
    params: dict[str, str | int] = {"vs_currency": currency.lower(), "per_page": COINS_PER_PAGE, "page": number}
    response = http.get("/coins/markets", params)
    count = len(json_list(response.body))
    if number == 1 and not count:
        raise TransientError(f"expected coins in {currency}, got an empty list", code="unexpected_body")
    most = max(cursor.get("most", 0), count)
    following = 0 if numbered.is_last(number, count, response, most) else number + 1
    notice = numbered.notice(number, count, response, cursor.get("items"))
    cursor = {**cursor, "page": following, "items": count, "most": most}
    return replace(Page.of(response, cursor), notice=notice), cursor


def _resumable_cursor(window: Window) -> Cursor | None:
    """Return the cursor if this run began the snapshot less than `EVERY` ago, otherwise None."""
    cursor = window.cursor
    if cursor and cursor["run"] == window.run and window.now - datetime.fromisoformat(cursor["began"]) < EVERY:
        return cursor
    return None


def parse(page: Page) -> list[Item]:
    """Return the coins of a page, each with the currency of the request unless that is USD."""
    coins, currency = json_list(page.body), page.request.get("params", {}).get("vs_currency", "usd").upper()
    return (
        coins
        if currency == USD
        else [{**coin, "vs_currency": currency} if isinstance(coin, dict) else coin for coin in coins]
    )


def normalize(item: Item) -> Mapping[str, Any]:
    """Return a coin as the unified record. CoinGecko sends null for an unknown number."""
    return {
        "source_asset_id": item.get("id"),
        "symbol": item.get("symbol"),
        "name": item.get("name"),
        "quote_currency": item.get("vs_currency", USD),
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
    caps, volumes = (_by_time(chart.get(name)) for name in ("market_caps", "total_volumes"))
    for pair in chart["prices"]:
        if not _is_pair(pair):
            yield Reject(
                "observed_at", "not_a_time", "expected a pair of a time in milliseconds and a price", item=pair
            )
        elif pair[0] % DAY_MS:
            yield LEFT_OUT
        else:
            at, price = pair
            yield {**page.request["listing"], "at": at, "price": price, "cap": caps.get(at), "volume": volumes.get(at)}


def _by_time(pairs: Any) -> dict[int, Any]:
    return {pair[0]: pair[1] for pair in pairs if _is_pair(pair)} if isinstance(pairs, list) else {}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[0]) is int


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
