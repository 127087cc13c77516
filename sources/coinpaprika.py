"""CoinPaprika's tickers: every coin it lists, in one answer. https://docs.coinpaprika.com/api-reference/tickers"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from sources.contract import History, HistoryWindow, Http, Item, Page, Rate, Reject, Response, Source, Upstream, Window
from sources.http.json_body import json_list


def fetch(window: Window, http: Http) -> Iterator[Page]:
    if window.cursor and window.cursor["run"] == window.run:
        return  # this run has it already
    yield Page.of(http.get("/tickers", {"quotes": "USD"}), cursor={"run": window.run})


def parse(page: Page) -> Iterator[Item]:
    """One item for each quote currency of each coin."""
    for coin in json_list(page.body):
        quotes = coin.get("quotes") if isinstance(coin, dict) else None
        if not isinstance(quotes, dict) or not quotes:
            yield Reject("quotes", "no_quotes", "expected quotes by currency, got none", item=coin)
            continue
        for currency, priced in quotes.items():
            yield {**coin, "quotes": {currency: priced}}


def normalize(item: Item) -> Mapping[str, Any]:
    [(currency, priced)] = item["quotes"].items()
    return {
        "source_asset_id": item.get("id"),
        "symbol": item.get("symbol"),
        "name": item.get("name"),
        "quote_currency": currency,
        "observed_at": item.get("last_updated"),
        "price": _known(priced.get("price")),
        "volume_24h": _known(priced.get("volume_24h")),
        "market_cap": _known(priced.get("market_cap")),
        "change_24h_pct": priced.get("percent_change_24h"),
        "rank": _known(item.get("rank")),
        "circulating_supply": _known(item.get("circulating_supply")),
        "total_supply": _known(item.get("total_supply")),
        "max_supply": _known(item.get("max_supply")),
    }


def _known(value: Any) -> Any:
    """CoinPaprika writes 0 for what it does not know."""
    return None if value == 0 and value is not False else value


def fetch_past(past: HistoryWindow, http: Http) -> Response:
    """A price a day, at 00:00 UTC. Without a paid plan, of the last year. tickers/get-historical-ticks"""
    asked: dict[str, str | int] = {
        "start": int(past.since.timestamp()),
        "end": int(past.until.timestamp()) - 1,
        "interval": "1d",
        "limit": 5000,
        "quote": past.listing["quote_currency"].lower(),
    }
    return http.get(f"/tickers/{quote(past.listing['source_asset_id'], safe='')}/historical", asked)


def parse_past(page: Page) -> Iterator[Item]:
    for tick in json_list(page.body):
        yield {"listing": page.request["listing"], "tick": tick}


def normalize_past(item: Item) -> Mapping[str, Any]:
    tick = item["tick"]
    return {
        **item["listing"],
        "observed_at": tick.get("timestamp"),
        "price": _known(tick.get("price")),
        "volume_24h": _known(tick.get("volume_24h")),
        "market_cap": _known(tick.get("market_cap")),
    }


source = Source(
    name="coinpaprika",
    every=timedelta(minutes=10),
    rate=Rate(per_minute=30, per_month=20_000),
    upstreams={
        "free": Upstream("https://api.coinpaprika.com/v1"),
        "pro": Upstream("https://api-pro.coinpaprika.com/v1", key_header="Authorization"),
    },
    fetch=fetch,
    parse=parse,
    normalize=normalize,
    history=History(span=timedelta(days=360), fetch=fetch_past, parse=parse_past, normalize=normalize_past),
)
