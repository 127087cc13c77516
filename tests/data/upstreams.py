"""Invent recordings: responses in the wire formats of CoinPaprika and CoinGecko, with invented values."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.data.names import Names

AT = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
TICKERS, MARKETS, DAYS = 60, 50, 91
NO_MARKET_CAP, NO_MAX_SUPPLY = 16, 47
"""The number of tickers without a market cap, and without a maximum supply. CoinPaprika writes 0 for both."""

JSON, HTML = "application/json", "text/html; charset=utf-8"
SHARED_SYMBOL = "SHRD"

PAPRIKA_ERRORS = {
    "error.400_bad_quotes": (400, {}, {"error": "quotes: no such currency"}),
    "error.402_paid_plan": (402, {}, {"error": "This is for a plan that you do not have."}),
    "error.403_no_access": (403, {}, {"error": "forbidden"}),
    "error.404_no_such_id": (404, {}, {"error": "there is no such id"}),
}
GECKO_ERRORS: dict[str, tuple[int, dict[str, str], Any]] = {
    # Errors have four different formats.
    "error.404_no_such_coin": (404, {}, {"error": "no coin has this id"}),
    "error.429_retry_after_71": (
        429,
        {"retry-after": "71"},
        {"status": {"error_code": 429, "error_message": "Too many requests; see the plans."}},
    ),
    "error.401_no_key": (
        401,
        {},
        {"error": {"status": {"error_code": 10002, "error_message": "There is no key in this request."}}},
    ),
    "error.200_server_error": (200, {}, {"status": 500, "error": "Something went wrong"}),
    # An error with status 200.
    "error.200_too_many_requests": (
        200,
        {},
        {"status": {"error_code": 429, "error_message": "Too many requests; see the plans."}},
    ),
    "error.422_no_vs_currency": (422, {}, {"error": "vs_currency is not given"}),
}


def files() -> dict[str, bytes]:
    """Return the content of each file, by upstream and name."""
    names = Names("upstreams")
    return {
        "coinpaprika/tickers.full.synthetic.json": _list(_tickers(names)),
        "coinpaprika/error.301_trailing_slash.html": (
            b'<a href="/v1/coins/kst-kestrelon/ohlcv?quotes=USD&amp;start=2025-01-01">Moved Permanently</a>.\n\n'
        ),
        "coinpaprika/error.301_trailing_slash.headers.json": _headers(
            301, {"content-type": HTML, "location": "/v1/coins/kst-kestrelon/ohlcv?quotes=USD&start=2025-01-01"}
        ),
        **_errors("coinpaprika", PAPRIKA_ERRORS),
        "coingecko/markets.p1.synthetic.json": _list(_markets(names)),
        "coingecko/markets.incomplete.json": _list(_incomplete()),
        "coingecko/markets.beyond_last_page.json": b"[]",
        "coingecko/market_chart.daily.synthetic.json": _compact(_chart(names)).encode(),
        **_errors("coingecko", GECKO_ERRORS),
        "coingecko/error.403_ban.html": b"<!DOCTYPE html><title>Access denied</title><h1>You are banned</h1>\n",
        "coingecko/error.403_ban.headers.json": _headers(403, {"content-type": HTML}),
    }


def _errors(upstream: str, errors: dict[str, tuple[int, dict[str, str], Any]]) -> dict[str, bytes]:
    recordings = {}
    for name, (status, headers, body) in errors.items():
        recordings[f"{upstream}/{name}.json"] = _compact(body).encode()
        recordings[f"{upstream}/{name}.headers.json"] = _headers(status, {"content-type": JSON, **headers})
    return recordings


def _headers(status: int, headers: dict[str, str]) -> bytes:
    return (json.dumps({"status": status, "headers": headers}, indent=1) + "\n").encode()


def raw(text: str) -> str:
    """Mark a number that must appear in the JSON exactly as written: Go and Ruby format exponents unlike Python."""
    return f"#{text}#"


def _compact(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub(r'"#([^"#]*)#"', r"\1", text)


def _list(items: list[dict[str, Any]]) -> bytes:
    return ("[" + ",\n".join(map(_compact, items)) + "]").encode()


def _time(age: timedelta, digits: str = "") -> str:
    return f"{AT - age:%Y-%m-%dT%H:%M:%S}{digits}Z"


def _tickers(names: Names) -> list[dict[str, Any]]:
    """Return coins as CoinPaprika writes them: a missing number is 0, never null."""
    coins = [_ticker(names, number) for number in range(TICKERS)]
    coins[0] |= {"id": "kst-kestrelon", "name": "Kestrelon", "symbol": "KST"}
    for number in (7, 8, 30):
        coins[number] |= {"id": f"shrd-{coins[number]['name'].lower()}", "symbol": SHARED_SYMBOL}
    coins[11]["name"] = "Salt & <Pepper>"
    coins[12]["total_supply"] = raw("999999999999999999")
    coins[13]["quotes"]["USD"]["percent_change_24h"] = raw("7123456000.5")
    for number, price in ((14, "3.1e-8"), (15, "7.25e-07"), (16, "0.00001234567890123456")):
        coins[number]["quotes"]["USD"]["price"] = raw(price)
    for number in (17, 18):
        del coins[number]["circulating_supply"]  # This drift occurred at the real API.
    coins[19]["rank"] = 0
    return coins


def _ticker(names: Names, number: int) -> dict[str, Any]:
    name, rng = names.word(), names.random
    symbol = names.symbol(name)
    price = rng.uniform(0.01, 90_000 / (number + 1))
    supply = rng.randrange(10**6, 10**9)
    return {
        "id": f"{symbol.lower()}-{name.lower()}",
        "name": name,
        "symbol": symbol,
        "rank": number + 1,
        "circulating_supply": supply,
        "total_supply": supply + rng.randrange(10**6),
        "max_supply": 0 if number >= TICKERS - NO_MAX_SUPPLY else 2 * supply,
        "beta_value": round(rng.uniform(0, 2), 6),
        "first_data_at": "2019-05-06T00:00:00Z",
        "last_updated": _time(timedelta(seconds=rng.randrange(600))),
        "quotes": {
            "USD": {
                "price": price,
                "volume_24h": rng.uniform(0, 10**9),
                "market_cap": 0 if number >= TICKERS - NO_MARKET_CAP else int(price * supply),
                "percent_change_24h": round(rng.uniform(-9, 9), 2),
                "ath_price": price * 3,
                "ath_date": "2021-11-12T13:14:15Z",
            }
        },
    }


def _markets(names: Names) -> list[dict[str, Any]]:
    """Return coins as CoinGecko writes them: a missing number is null, and whole numbers and floats mix."""
    coins = [_market(names, number) for number in range(MARKETS)]
    coins[0] |= {"id": "kestrelon", "symbol": "kst", "name": "Kestrelon"}
    for number in (5, 6):
        coins[number]["symbol"] = SHARED_SYMBOL.lower()
    coins[7] |= {"current_price": raw("3e-09"), "high_24h": raw("3.2e-09"), "low_24h": raw("2.9e-09")}
    coins[8]["total_supply"] = raw("4.2e+17")
    coins[9]["circulating_supply"] = raw("20004924.0")
    coins[10]["roi"] = {"times": 12.5, "currency": "btc", "percentage": 1250.0}
    coins[11]["market_cap_rank"] = None
    coins[12] |= {"high_24h": None, "low_24h": None}
    return coins


def _market(names: Names, number: int) -> dict[str, Any]:
    name, rng = names.word(), names.random
    price: float = round(rng.uniform(0.01, 70_000 / (number + 1)), 4) if number % 3 else rng.randrange(2, 70_000)
    supply = round(rng.uniform(10**6, 10**9), 3)
    return {
        "id": name.lower(),
        "symbol": names.symbol(name).lower(),
        "name": name,
        "image": f"https://coin-images.example/coins/images/{number}/large/{name.lower()}.png?1547033579",
        "current_price": price,
        "market_cap": int(price * supply),
        "market_cap_rank": number + 1,
        "fully_diluted_valuation": None if number % 2 else int(price * supply * 2),
        "total_volume": round(rng.uniform(1, 10**8), number % 2),
        "high_24h": price * 2,
        "low_24h": price / 2,
        "price_change_percentage_24h": round(rng.uniform(-9, 9), 5),
        "circulating_supply": supply,
        "total_supply": None if number % 17 == 4 else supply * 2,
        "max_supply": None if number % 9 > 4 else int(supply * 3),
        "ath_date": "2024-03-14T07:10:36.635Z",
        "roi": None,
        "last_updated": _time(timedelta(seconds=rng.randrange(600)), f".{rng.randrange(1000):03}"),
    }


def _incomplete() -> list[dict[str, Any]]:
    """Return a complete coin, and one for each field that real coins were seen to lack."""
    complete = _market(Names("incomplete"), 1)
    gaps = ({"id": ""}, {"current_price": None}, {"last_updated": None}, {"symbol": ""})
    return [{**complete, "id": f"{complete['id']}-{number}", **gap} for number, gap in enumerate(({}, *gaps))]


def _chart(names: Names) -> dict[str, list[list[Any]]]:
    """Return a price for each day. The last price is from the time of the request."""
    days = [int((AT.replace(hour=0, minute=0, second=0) - timedelta(days=ago)).timestamp()) for ago in range(DAYS)]
    times = [1000 * second for second in reversed(days)] + [int(AT.timestamp() * 1000) + 89]
    ranges = {"prices": 60_000, "market_caps": 10**12, "total_volumes": 10**10}
    return {name: [[at, names.random.uniform(1, most)] for at in times] for name, most in ranges.items()}
