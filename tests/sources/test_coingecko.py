"""Test the CoinGecko source: the pages of a snapshot, resuming a run, and the quirks of the wire format."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from sources.coingecko import COINS_PER_PAGE, EVERY, source
from sources.contract import Page, TerminalError, TransientError, Window
from tasks.pipeline.normalize import NormalizedPage, normalize_page
from tests.data.upstreams import AT
from tests.recordings import REAL, SYNTHETIC, Recordings
from tests.sources.conftest import Clients
from tests.upstreams import Markets, coins

NOW = datetime(2024, 4, 7, 16, 50, tzinfo=UTC)

BITCOIN: dict[str, Any] = {
    "id": "bitcoin",
    "symbol": "btc",
    "name": "Bitcoin",
    "current_price": 70187,
    "market_cap": 1381651251183,
    "market_cap_rank": 1,
    "fully_diluted_valuation": 1474623675796,
    "total_volume": 20154184933,
    "high_24h": 70215,
    "low_24h": 68060,
    "price_change_percentage_24h": 3.12502,
    "circulating_supply": 19675987,
    "total_supply": 21000000,
    "max_supply": 21000000,
    "roi": None,
    "last_updated": "2024-04-07T16:49:31.736Z",
}


@pytest.fixture
def markets(upstream: HTTPServer) -> Callable[[int], Markets]:
    """Return a function that serves a given number of coins."""
    return lambda count: Markets(upstream, coins(count))


def fetch(client: Clients, markets: Markets, run: str, cursor: Any = None, now: datetime = NOW) -> list[Page]:
    return list(source.fetch(Window(run, "", cursor, now), client(markets.url)))


def normalized(*items: Any) -> NormalizedPage:
    return normalize_page(source, Page(json.dumps(items).encode(), "application/json", {}, NOW, None), clock_skew=0)


# Pages


def test_a_snapshot_ends_with_an_empty_page(client: Clients, markets: Callable[[int], Markets]) -> None:
    server = markets(2 * COINS_PER_PAGE + 1)
    server.states = False
    pages = fetch(client, server, "run-1")
    assert [len(json.loads(page.body)) for page in pages] == [COINS_PER_PAGE, COINS_PER_PAGE, 1, 0]
    assert fetch(client, server, "run-1", pages[-1].cursor) == []
    assert server.requested_pages == [1, 2, 3, 4]


def test_a_snapshot_ends_at_the_total_that_the_upstream_states(
    client: Clients, markets: Callable[[int], Markets]
) -> None:
    server = markets(2 * COINS_PER_PAGE)
    server.states = True
    fetch(client, server, "run-1")
    assert server.requested_pages == [1, 2]


@pytest.mark.parametrize("states", [False, True])
def test_a_short_page_does_not_end_the_snapshot(
    client: Clients, markets: Callable[[int], Markets], states: bool
) -> None:
    server = markets(1200)
    server.states, server.drop = states, {2: 1}
    pages = fetch(client, server, "run-1")
    assert [len(json.loads(page.body)) for page in pages] == [250, 249, 250, 250]
    assert [page.notice for page in pages] == [
        *[None, None, "page 2 has 249 items instead of 250, but is not the last page", None]
    ]


@pytest.mark.parametrize("states", [False, True])
def test_smaller_pages_than_requested_are_noticed_and_read_to_the_same_number_of_coins(
    client: Clients, markets: Callable[[int], Markets], states: bool
) -> None:
    server = markets(1200)
    server.states, server.cap = states, 100
    pages = fetch(client, server, "run-1")
    assert sum(len(json.loads(page.body)) for page in pages) == 1000
    assert any(page.notice for page in pages)


def test_a_list_without_coins_is_an_error(client: Clients, markets: Callable[[int], Markets]) -> None:
    with pytest.raises(TransientError, match="got an empty list") as error:
        fetch(client, markets(0), "run-1")
    assert error.value.code == "unexpected_body"


def test_several_currencies_are_requested_and_label_their_quotes(
    client: Clients, markets: Callable[[int], Markets], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINGECKO_QUOTE_CURRENCIES", "USD, eur")
    server = markets(COINS_PER_PAGE + 1)
    server.states = True
    pages = fetch(client, server, "run-1")
    assert [page.request["params"]["vs_currency"] for page in pages] == ["usd", "usd", "eur", "eur"]
    currencies = [{quote.quote_currency for quote in normalize_page(source, page, 0).quotes} for page in pages]
    assert currencies == [{"USD"}, {"USD"}, {"EUR"}, {"EUR"}]
    assert fetch(client, server, "run-1", pages[-1].cursor) == []
    assert [page.request["params"]["page"] for page in fetch(client, server, "run-1", pages[1].cursor)] == [1, 2]


def test_a_snapshot_has_at_most_four_pages_by_default(client: Clients, markets: Callable[[int], Markets]) -> None:
    server = markets(6 * COINS_PER_PAGE)
    pages = fetch(client, server, "run-1")
    assert server.requested_pages == [1, 2, 3, 4]
    assert fetch(client, server, "run-1", pages[-1].cursor) == []


@pytest.mark.parametrize(("pages", "requested"), [("1", [1]), ("5", [1, 2, 3, 4, 5])])
def test_coingecko_pages_sets_the_number_of_pages(
    client: Clients,
    markets: Callable[[int], Markets],
    monkeypatch: pytest.MonkeyPatch,
    pages: str,
    requested: list[int],
) -> None:
    monkeypatch.setenv("COINGECKO_PAGES", pages)
    server = markets(6 * COINS_PER_PAGE)
    fetch(client, server, "run-1")
    assert server.requested_pages == requested


def test_the_same_run_resumes_at_the_page_in_its_cursor(client: Clients, markets: Callable[[int], Markets]) -> None:
    server = markets(3 * COINS_PER_PAGE - 1)
    server.states = True
    first = fetch(client, server, "run-1")[0]
    server.requested_pages.clear()
    fetch(client, server, "run-1", json.loads(json.dumps(first.cursor)), NOW + EVERY - timedelta(seconds=1))
    assert server.requested_pages == [2, 3]


@pytest.mark.parametrize(("run", "age"), [("run-2", timedelta(0)), ("run-1", EVERY)], ids=["another run", "too old"])
def test_another_run_or_an_old_snapshot_starts_at_page_one(
    client: Clients, markets: Callable[[int], Markets], run: str, age: timedelta
) -> None:
    server = markets(3 * COINS_PER_PAGE - 1)
    server.states = True
    second = fetch(client, server, "run-1")[1]
    server.requested_pages.clear()
    pages = fetch(client, server, run, second.cursor, NOW + age)
    assert server.requested_pages == [1, 2, 3]
    assert pages[0].cursor is not None
    assert (pages[0].cursor["run"], pages[0].cursor["page"]) == (run, 2)


def test_prices_are_requested_in_dollars(client: Clients, markets: Callable[[int], Markets]) -> None:
    page = fetch(client, markets(1), "run-1")[0]
    assert page.request["params"] == {"vs_currency": "usd", "per_page": COINS_PER_PAGE, "page": 1}


@pytest.mark.parametrize(
    "body",
    [
        '{"status":{"error_code":429,"error_message":"You\'ve exceeded the Rate Limit."}}',
        '{"error":"coin not found"}',
        '{"error":{"status":{"error_code":10002}}}',
        '{"status":500,"error":"Internal Server Error"}',
        "<!DOCTYPE html><title>Access denied</title>",
        "",
    ],
)
def test_an_error_with_status_200_is_an_error_and_not_the_last_page(
    upstream: HTTPServer, client: Clients, body: str
) -> None:
    upstream.expect_request("/coins/markets").respond_with_data(body, 200)
    pages = source.fetch(Window("run-1", "", None, NOW), client(upstream.url_for("")))
    with pytest.raises(TransientError) as caught:
        next(pages)
    assert caught.value.code == "unexpected_body"


# Items


def test_a_coin_becomes_a_quote() -> None:
    [quote] = normalized(BITCOIN).quotes
    assert (quote.source_asset_id, quote.symbol, quote.name) == ("bitcoin", "btc", "Bitcoin")
    assert (quote.quote_currency, quote.rank) == ("USD", 1)
    assert quote.observed_at == datetime(2024, 4, 7, 16, 49, 31, 736000, tzinfo=UTC)
    assert (quote.price, quote.high, quote.low, quote.open) == (70187, 70215, 68060, None)
    assert (quote.volume_24h, quote.market_cap) == (20154184933, 1381651251183)
    assert quote.change_24h_pct == Decimal("3.12502")
    assert (quote.circulating_supply, quote.total_supply, quote.max_supply) == (19675987, 21000000, 21000000)


def test_null_means_unknown_and_zero_means_zero() -> None:
    [quote] = normalized({**BITCOIN, "max_supply": None, "market_cap_rank": None, "total_volume": 0}).quotes
    assert (quote.max_supply, quote.rank, quote.volume_24h) == (None, None, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": ""}, ("source_asset_id", "empty")),
        ({"current_price": None}, ("price", "no_price")),
        ({"current_price": 0}, ("price", "not_positive")),
        ({"last_updated": None}, ("observed_at", "missing")),
        ({"market_cap_rank": 0}, None),
        ({"current_price": "70187"}, None),
        ({"current_price": "much"}, ("price", "not_a_number")),
    ],
    ids=str,
)
def test_a_coin_with_an_invalid_field_is_rejected_with_its_code(
    changes: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    result = normalized({**BITCOIN, **changes})
    reasons = [(reason["field"], reason["code"]) for reject in result.rejects for reason in reject.reasons]
    assert reasons == ([expected] if expected else [])


@pytest.mark.parametrize("item", [None, 7, "bitcoin", [], [BITCOIN]], ids=lambda item: str(item)[:9])
def test_an_item_that_is_not_a_coin_rejects_only_itself(item: Any) -> None:
    result = normalized(item, BITCOIN)
    assert [reason["code"] for reject in result.rejects for reason in reject.reasons] == ["unmappable"]
    assert len(result.quotes) == 1


def test_a_coin_listed_twice_with_the_same_time_becomes_one_quote() -> None:
    result = normalized(BITCOIN, {**BITCOIN, "market_cap_rank": 2})
    assert (result.fetched, result.deduplicated, len(result.quotes)) == (2, 1, 1)


def test_the_tiniest_price_and_the_largest_supply_are_exact() -> None:
    body = json.dumps([{**BITCOIN, "current_price": 0, "total_supply": 0}])
    body = body.replace('"current_price": 0', '"current_price": 3.000000000000000007e-09')
    body = body.replace('"total_supply": 0', '"total_supply": 420690000000000001')
    page = Page(body.encode(), "application/json", {}, NOW, None)
    [quote] = normalize_page(source, page, clock_skew=0).quotes
    assert quote.price == Decimal("0.000000003000000000000000007")
    assert quote.total_supply == 420690000000000001


# Recordings


def test_a_recorded_page_becomes_one_exact_quote_for_each_coin(recordings: Recordings) -> None:
    body = recordings.first_markets.read_bytes()
    coins = json.loads(body, parse_float=str, parse_int=str)
    fetched_at = max(datetime.fromisoformat(coin["last_updated"]) for coin in coins)
    result = normalize_page(source, Page(body, "application/json", {}, fetched_at, None), clock_skew=0)
    assert result.rejects == []
    assert (result.fetched, len(result.quotes), result.deduplicated) == (recordings.markets, recordings.markets, 0)
    as_text = {coin["id"]: coin for coin in coins}
    for quote in result.quotes:
        coin = as_text[quote.source_asset_id]
        assert quote.price.as_tuple() == Decimal(coin["current_price"]).as_tuple()
        for ours, theirs in [("high", "high_24h"), ("total_supply", "total_supply"), ("max_supply", "max_supply")]:
            number = getattr(quote, ours)
            assert (number is None) == (coin[theirs] is None)
            assert number is None or number.as_tuple() == Decimal(coin[theirs]).as_tuple()


@pytest.mark.parametrize(
    ("recordings", "recording", "error", "code", "retry_after"),
    [
        (SYNTHETIC, "error.404_no_such_coin", TerminalError, "upstream_refused", None),
        (SYNTHETIC, "error.422_no_vs_currency", TerminalError, "upstream_refused", None),
        (SYNTHETIC, "error.401_no_key", TerminalError, "key_refused", None),
        (SYNTHETIC, "error.403_ban", TerminalError, "key_refused", None),
        (SYNTHETIC, "error.429_retry_after_71", TransientError, "rate_limited", 71),
        (SYNTHETIC, "error.200_too_many_requests", TransientError, "unexpected_body", None),
        (SYNTHETIC, "error.200_server_error", TransientError, "unexpected_body", None),
        (REAL, "error.404_coin", TerminalError, "upstream_refused", None),
        (REAL, "error.422_missing_vs_currency", TerminalError, "upstream_refused", None),
        (REAL, "error.429_retry_after_53", TransientError, "rate_limited", 53),
    ],
    indirect=["recordings"],
    ids=str,
)
def test_a_recorded_error_is_classified_by_its_status(
    recordings: Recordings,
    upstream: HTTPServer,
    client: Clients,
    recording: str,
    error: type[TransientError | TerminalError],
    code: str,
    retry_after: float | None,
) -> None:
    body, status, recorded = recordings.response(f"coingecko/{recording}")
    headers = {"Retry-After": recorded["retry-after"]} if "retry-after" in recorded else {}
    upstream.expect_request("/coins/markets").respond_with_data(body, status, headers)
    with pytest.raises(error) as caught:
        next(source.fetch(Window("run-1", "", None, NOW), client(upstream.url_for(""))))
    assert (caught.value.code, getattr(caught.value, "retry_after", None)) == (code, retry_after)
    assert client.spent == 1


def test_recorded_coins_with_missing_fields_are_rejected() -> None:
    page = Page(SYNTHETIC.file("coingecko/markets.incomplete.json").read_bytes(), "application/json", {}, AT, None)
    result = normalize_page(source, page, clock_skew=0)
    reasons = [(why["field"], why["code"]) for reject in result.rejects for why in reject.reasons]
    expected = [("source_asset_id", "empty"), ("price", "no_price"), ("observed_at", "missing"), ("symbol", "empty")]
    assert (len(result.quotes), reasons) == (1, expected)


def test_a_recorded_page_past_the_end_ends_the_snapshot(
    recordings: Recordings, upstream: HTTPServer, client: Clients
) -> None:
    body = recordings.file("coingecko/markets.beyond_last_page.json").read_bytes()
    upstream.expect_request("/coins/markets").respond_with_data(body, 200)
    cursor = {"run": "run-1", "began": NOW.isoformat(), "page": 3}
    pages = list(source.fetch(Window("run-1", "", cursor, NOW), client(upstream.url_for(""))))
    assert [page.body for page in pages] == [b"[]"]
