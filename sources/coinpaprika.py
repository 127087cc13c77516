"""Read CoinPaprika's tickers, which list every coin in one response, and the daily history of a coin.

https://docs.coinpaprika.com/api-reference/tickers
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from sources import (
    History,
    HistoryWindow,
    Http,
    Item,
    Page,
    Rate,
    Reject,
    Response,
    Source,
    TransientError,
    Upstream,
    Window,
    json_list,
)
from sources.quote_currencies import quote_currencies

NO_QUOTES = 'expected quotes by currency, such as {"USD": {"price": …}}, got none'


def fetch(window: Window, http: Http) -> Iterator[Page]:
    """Yield one page with all tickers, unless this run has already loaded it."""
    if window.cursor and window.cursor["run"] == window.run:
        return  # Already loaded.
    response = http.get("/tickers", {"quotes": ",".join(quote_currencies(source.name))})
    if not json_list(response.body):
        raise TransientError("expected tickers, got an empty list", code="unexpected_body")
    yield Page.of(response, cursor={"run": window.run})


def parse(page: Page) -> Iterator[Item]:
    """Yield one item for each coin and quote currency."""
    for coin in json_list(page.body):
        quotes = coin.get("quotes") if isinstance(coin, dict) else None
        if not isinstance(quotes, dict) or not quotes:
            yield Reject("quotes", "no_quotes", NO_QUOTES, item=coin)
            continue
        for currency, values in quotes.items():
            yield {**coin, "quotes": {currency: values}}


def normalize(item: Item) -> Mapping[str, Any]:
    """Return a coin in one quote currency as the unified record. A change of 0 percent is a valid value."""
    [(currency, values)] = item["quotes"].items()
    return {
        "source_asset_id": item.get("id"),
        "symbol": item.get("symbol"),
        "name": item.get("name"),
        "quote_currency": currency,
        "observed_at": item.get("last_updated"),
        "price": _zero_to_none(values.get("price")),
        "volume_24h": _zero_to_none(values.get("volume_24h")),
        "market_cap": _zero_to_none(values.get("market_cap")),
        "change_24h_pct": values.get("percent_change_24h"),
        "rank": _zero_to_none(item.get("rank")),
        "circulating_supply": _zero_to_none(item.get("circulating_supply")),
        "total_supply": _zero_to_none(item.get("total_supply")),
        "max_supply": _zero_to_none(item.get("max_supply")),
    }


def _zero_to_none(value: Any) -> Any:
    """Return None for 0, which CoinPaprika sends for an unknown number; return any other value unchanged."""
    return None if value == 0 and value is not False else value


def fetch_history(window: HistoryWindow, http: Http) -> Response:
    """Request one price per day, at 00:00 UTC. Without a paid plan, CoinPaprika serves only the last year.

    https://docs.coinpaprika.com/api-reference/tickers/get-historical-ticks
    """
    params: dict[str, str | int] = {
        "start": int(window.since.timestamp()),
        "end": int(window.until.timestamp()) - 1,
        "interval": "1d",
        "limit": 5000,
        "quote": window.listing["quote_currency"].lower(),
    }
    return http.get(f"/tickers/{quote(window.listing['source_asset_id'], safe='')}/historical", params)


def parse_history(page: Page) -> Iterator[Item]:
    """Yield each tick with the requested listing, since a tick does not name its coin."""
    for tick in json_list(page.body):
        yield {"listing": page.request["listing"], "tick": tick}


def normalize_history(item: Item) -> Mapping[str, Any]:
    """Return a tick as the unified record."""
    tick = item["tick"]
    return {
        **item["listing"],
        "observed_at": tick.get("timestamp"),
        "price": _zero_to_none(tick.get("price")),
        "volume_24h": _zero_to_none(tick.get("volume_24h")),
        "market_cap": _zero_to_none(tick.get("market_cap")),
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
    history=History(span=timedelta(days=360), fetch=fetch_history, parse=parse_history, normalize=normalize_history),
)
