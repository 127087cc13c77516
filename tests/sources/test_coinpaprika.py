"""Test the CoinPaprika source: one page per run, and the quirks of the wire format."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from sources.coinpaprika import source
from sources.contract import Page, TerminalError, TransientError, Window
from tasks.pipeline.normalize import NormalizedPage, normalize_page
from tests.recordings import REAL, SYNTHETIC, Recordings
from tests.sources.conftest import Clients

FETCHED = datetime(2023, 7, 11, 8, 41, tzinfo=UTC)

BITCOIN: dict[str, Any] = {
    "id": "btc-bitcoin",
    "name": "Bitcoin",
    "symbol": "BTC",
    "rank": 1,
    "circulating_supply": 19426506,
    "total_supply": 19426512,
    "max_supply": 21000000,
    "beta_value": 1.0563,
    "first_data_at": "2010-07-17T00:00:00Z",
    "last_updated": "2023-07-11T08:40:17Z",
    "quotes": {
        "USD": {
            "price": 30538.078793975994,
            "volume_24h": 13441600877.886246,
            "market_cap": 593248170920,
            "percent_change_24h": 1.24,
            "ath_price": 68692.13703693185,
            "ath_date": "2021-11-10T16:50:00Z",
        }
    },
}


def window(run: str, cursor: dict[str, Any] | None = None) -> Window:
    return Window(run, "", cursor, FETCHED)


def normalized(*coins: Any, fetched_at: datetime = FETCHED) -> NormalizedPage:
    page = Page(json.dumps(coins).encode(), "application/json", {}, fetched_at, None)
    return normalize_page(source, page, clock_skew=0)


def reasons(*coins: Any) -> list[tuple[str, str]]:
    return [(reason["field"], reason["code"]) for reject in normalized(*coins).rejects for reason in reject.reasons]


def bitcoin(quote: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {**BITCOIN, "quotes": {"USD": {**BITCOIN["quotes"]["USD"], **(quote or {})}}, **changes}


def test_a_coin_becomes_a_quote() -> None:
    [quote] = normalized(BITCOIN).quotes
    assert (quote.source_asset_id, quote.symbol, quote.name) == ("btc-bitcoin", "BTC", "Bitcoin")
    assert (quote.quote_currency, quote.rank) == ("USD", 1)
    assert quote.observed_at == datetime(2023, 7, 11, 8, 40, 17, tzinfo=UTC)
    assert quote.price == Decimal("30538.078793975994")
    assert quote.volume_24h == Decimal("13441600877.886246")
    assert quote.market_cap == 593248170920
    assert quote.change_24h_pct == Decimal("1.24")
    assert (quote.circulating_supply, quote.total_supply, quote.max_supply) == (19426506, 19426512, 21000000)
    assert (quote.open, quote.high, quote.low) == (None, None, None)


def test_each_currency_of_a_coin_becomes_a_separate_quote() -> None:
    coin = {**BITCOIN, "quotes": {"USD": {"price": 1}, "BTC": {"price": 2}, "eur": {"price": 3}}}
    quotes = normalized(coin).quotes
    assert {quote.quote_currency: quote.price for quote in quotes} == {"USD": 1, "BTC": 2, "EUR": 3}


def test_zero_means_unknown() -> None:
    unknown = bitcoin({"market_cap": 0, "volume_24h": 0.0}, rank=0, circulating_supply=0, total_supply=0, max_supply=0)
    [quote] = normalized(unknown).quotes
    assert (quote.market_cap, quote.volume_24h, quote.rank) == (None, None, None)
    assert (quote.circulating_supply, quote.total_supply, quote.max_supply) == (None, None, None)


def test_a_change_of_zero_percent_means_zero() -> None:
    [quote] = normalized(bitcoin({"percent_change_24h": 0})).quotes
    assert quote.change_24h_pct == 0


def test_a_missing_optional_field_is_unknown() -> None:
    coin = bitcoin()
    del coin["circulating_supply"]
    [quote] = normalized(coin).quotes
    assert quote.circulating_supply is None


@pytest.mark.parametrize("price", [0, 0.0, None])
def test_a_coin_without_a_price_is_rejected_with_the_code_no_price(price: Any) -> None:
    assert reasons(bitcoin({"price": price})) == [("price", "no_price")]


@pytest.mark.parametrize(
    ("coin", "expected"),
    [
        (bitcoin(id=""), ("source_asset_id", "empty")),
        (bitcoin(name=None), ("name", "missing")),
        (bitcoin(last_updated=""), ("observed_at", "not_a_time")),
        (bitcoin({"price": -1}), ("price", "not_positive")),
        (bitcoin(quotes={}), ("quotes", "no_quotes")),
        (bitcoin(quotes=None), ("quotes", "no_quotes")),
        (bitcoin(quotes=[1]), ("quotes", "no_quotes")),
        (bitcoin(quotes={"USD": None}), ("", "unmappable")),
        (bitcoin(quotes={"": {"price": 1}}), ("quote_currency", "empty")),
        (None, ("quotes", "no_quotes")),
        ("btc-bitcoin", ("quotes", "no_quotes")),
        ([], ("quotes", "no_quotes")),
    ],
)
def test_an_invalid_coin_rejects_only_itself(coin: Any, expected: tuple[str, str]) -> None:
    assert reasons(coin, BITCOIN) == [expected]
    assert len(normalized(coin, BITCOIN).quotes) == 1


def test_a_rejected_coin_is_stored_unchanged() -> None:
    [reject] = normalized({"id": "x-x", "quotes": {}}).rejects
    assert json.loads(reject.item) == {"id": "x-x", "quotes": {}}


def test_a_run_requests_the_tickers_once(upstream: HTTPServer, client: Clients) -> None:
    upstream.expect_request("/tickers", query_string={"quotes": "USD"}).respond_with_json([BITCOIN])
    http = client(upstream.url_for(""))
    [page] = source.fetch(window("run-1"), http)
    assert page.cursor is not None
    assert list(source.fetch(window("run-1", dict(page.cursor)), http)) == []
    assert len(list(source.fetch(window("run-2", dict(page.cursor)), http))) == 1
    assert client.spent == 2


# Recordings


def test_a_recorded_response_becomes_one_exact_quote_for_each_coin(recordings: Recordings) -> None:
    body = recordings.all_tickers.read_bytes()
    as_text = {coin["id"]: coin for coin in json.loads(body, parse_float=str, parse_int=str)}
    fetched_at = max(datetime.fromisoformat(coin["last_updated"]) for coin in as_text.values())
    page = Page(body, "application/json", {}, fetched_at, None)
    result = normalize_page(source, page, clock_skew=0)
    assert Counter(why["code"] for reject in result.rejects for why in reject.reasons) == {}
    assert (result.fetched, len(result.quotes), result.deduplicated) == (recordings.tickers, recordings.tickers, 0)
    for quote in result.quotes:
        coin = as_text[quote.source_asset_id]
        assert quote.price.as_tuple() == Decimal(coin["quotes"]["USD"]["price"]).as_tuple()
        assert str(quote.change_24h_pct) == str(Decimal(coin["quotes"]["USD"]["percent_change_24h"]))
        assert (quote.market_cap or 0) == Decimal(coin["quotes"]["USD"]["market_cap"])
        assert (quote.rank or 0) == int(coin["rank"])
    assert sum(quote.market_cap is None for quote in result.quotes) == recordings.no_market_cap
    assert sum(quote.max_supply is None for quote in result.quotes) == recordings.no_max_supply


@pytest.mark.parametrize(
    ("recordings", "recording", "code", "pause"),
    [
        (SYNTHETIC, "error.400_bad_quotes", "upstream_refused", None),
        (SYNTHETIC, "error.402_paid_plan", "payment_required", timedelta(days=1)),
        (SYNTHETIC, "error.403_no_access", "key_refused", timedelta(hours=1)),
        (SYNTHETIC, "error.404_no_such_id", "upstream_refused", None),
        (REAL, "error.402_historical", "payment_required", timedelta(days=1)),
        (REAL, "error.404_id_not_found", "upstream_refused", None),
    ],
    indirect=["recordings"],
    ids=str,
)
def test_a_recorded_refusal_is_a_terminal_error(
    recordings: Recordings, upstream: HTTPServer, client: Clients, recording: str, code: str, pause: timedelta | None
) -> None:
    body, status, _ = recordings.response(f"coinpaprika/{recording}")
    upstream.expect_request("/tickers").respond_with_data(body, status, content_type="application/json")
    with pytest.raises(TerminalError, match=str(status)) as caught:
        list(source.fetch(window("run-1"), client(upstream.url_for(""))))
    assert (caught.value.code, caught.value.pause, client.spent) == (code, pause, 1)


def test_a_recorded_error_with_status_200_is_an_error_and_not_an_empty_page(recordings: Recordings) -> None:
    body = recordings.file("coinpaprika/error.404_*.json").read_bytes()
    with pytest.raises(TransientError):
        normalize_page(source, Page(body, "application/json", {}, FETCHED, None), clock_skew=0)


def test_the_recorded_redirect_for_a_trailing_slash_is_followed(
    recordings: Recordings, upstream: HTTPServer, client: Clients
) -> None:
    html, status, headers = recordings.response("coinpaprika/error.301_trailing_slash")
    location, content_type = headers["location"], headers["content-type"]
    path, _, query = location.partition("?")
    upstream.expect_request(f"{path}/").respond_with_data(html, status, {"Location": location}, content_type)
    upstream.expect_request(path, query_string=query).respond_with_json([])
    assert client(upstream.url_for("")).get(f"{path}/").body == b"[]"


def test_an_empty_list_of_tickers_is_an_error(upstream: HTTPServer, client: Clients) -> None:
    upstream.expect_request("/tickers").respond_with_json([])
    with pytest.raises(TransientError, match="got an empty list") as error:
        next(source.fetch(window("run-1"), client(upstream.url_for(""))))
    assert error.value.code == "unexpected_body"


def test_tickers_are_requested_in_the_currencies_of_the_setting(
    upstream: HTTPServer, client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.expect_request("/tickers", query_string={"quotes": "USD,EUR"}).respond_with_json([BITCOIN])
    monkeypatch.setenv("COINPAPRIKA_QUOTE_CURRENCIES", "USD,EUR")
    [page] = source.fetch(window("run-1"), client(upstream.url_for("")))
    assert page.request["params"] == {"quotes": "USD,EUR"}
