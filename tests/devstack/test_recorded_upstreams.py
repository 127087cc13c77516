"""The replay server: the upstreams' manners and spelling, with the recorded times moved to now."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from devstack.price_walk import walk_coingecko, walk_coinpaprika
from devstack.recorded_upstreams import STEP, Recording, routes

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "sample_data"
TICKERS, MARKETS = "/coinpaprika/v1/tickers", "/coingecko/api/v3/coins/markets"
A_PAGE: dict[str, str | int] = {"vs_currency": "usd", "per_page": 250}
NOON = 1_900_000_800  # some step, divisible by an hour


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def replay() -> Iterator[str]:
    """The address of a running replay server."""
    port = _free_port()
    command = [sys.executable, "-m", "devstack.recorded_upstreams", "--port", str(port), "--folder", str(FOLDER)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            _until_it_answers(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            assert process.wait(timeout=10) == 0


def _until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.get(f"http://127.0.0.1:{port}/healthz", timeout=1).raise_for_status()
            return
        except requests.ConnectionError:
            time.sleep(0.02)
    raise AssertionError("the replay server did not come up")


def _recording(name: str, seed: int = 1) -> Recording:
    file, walk = {
        "coinpaprika": ("coinpaprika/tickers.json", walk_coinpaprika),
        "coingecko": ("coingecko/markets.json", walk_coingecko),
    }[name]
    return Recording.read(FOLDER / file, walk, seed)


def _at(name: str, moment: int, seed: int = 1) -> list[dict[str, Any]]:
    return [json.loads(record, parse_float=Decimal) for record in _recording(name, seed).at(moment)]


def test_coinpaprika_is_one_list_and_coingecko_ends_with_an_empty_page(replay: str) -> None:
    tickers = requests.get(replay + TICKERS, params={"quotes": "USD"}, timeout=10)
    pages = [requests.get(replay + MARKETS, params={**A_PAGE, "page": page}, timeout=10) for page in range(1, 5)]
    assert len(tickers.json()) > 500
    assert [len(page.json()) for page in pages[:2]] == [250, 250]
    assert 0 < len(pages[2].json()) < 250
    assert pages[3].text == "[]"
    assert {page.status_code for page in pages} == {200}


def test_a_page_has_100_coins_unless_asked_otherwise(replay: str) -> None:
    assert len(requests.get(replay + MARKETS, params={"vs_currency": "usd"}, timeout=10).json()) == 100


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        (MARKETS, 422, "Missing parameter vs_currency"),
        (MARKETS + "?vs_currency=usd&per_page=251", 422, "page must be 1 or more, per_page from 1 to 250"),
        (MARKETS + "?vs_currency=usd&page=one", 422, "page and per_page must be whole numbers"),
        (TICKERS + "?quotes=EUR", 400, "unsupported quotes: this recording holds USD only"),
        ("/coinpaprika/v1/nothing", 404, "no such path: /coinpaprika/v1/nothing"),
    ],
)
def test_a_request_it_cannot_serve_gets_an_error_object(replay: str, path: str, status: int, error: str) -> None:
    answer = requests.get(replay + path, timeout=10)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


def test_a_trailing_slash_is_redirected_with_a_page_of_html(replay: str) -> None:
    answer = requests.get(f"{replay}{TICKERS}/?quotes=USD", timeout=10, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (301, f"{TICKERS}?quotes=USD")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Moved Permanently" in answer.text


def test_one_connection_serves_many_requests_compressed_where_that_is_accepted(replay: str) -> None:
    with requests.Session() as session:
        packed = session.get(replay + TICKERS, timeout=10, stream=True)
        connection = packed.raw.connection
        assert packed.headers["Content-Encoding"] == "gzip"
        assert len(packed.content) > 4 * int(packed.headers["Content-Length"])
        plain = session.get(replay + TICKERS, timeout=10, stream=True, headers={"Accept-Encoding": "identity"})
        assert plain.raw.connection is connection
        assert "Content-Encoding" not in plain.headers
        assert len(plain.content) == int(plain.headers["Content-Length"])


def test_what_did_not_change_is_not_sent_again() -> None:
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "devstack.recorded_upstreams",
        "--port",
        str(port),
        "--folder",
        str(FOLDER),
        "--freeze",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            _until_it_answers(process, port)
            url = f"http://127.0.0.1:{port}{TICKERS}"
            first = requests.get(url, timeout=10)
            again = requests.get(url, timeout=10, headers={"If-None-Match": first.headers["ETag"]})
            other = requests.get(url, timeout=10, headers={"If-None-Match": 'W/"another"'})
        finally:
            process.terminate()
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert (other.status_code, other.content) == (200, first.content)


def test_frozen_time_gives_the_same_bytes_in_every_process_and_another_seed_gives_others() -> None:
    def frozen(seed: int) -> list[bytes]:
        answers = routes(FOLDER, seed, freeze=True)
        return [answers[TICKERS]({}).body, answers[MARKETS]({"vs_currency": "usd", "per_page": "250"}).body]

    assert frozen(1) == frozen(1)
    assert all(one != two for one, two in zip(frozen(1), frozen(2), strict=True))


@pytest.mark.parametrize("name", ["coinpaprika", "coingecko"])
def test_a_step_and_a_seed_decide_every_byte(name: str) -> None:
    first, second = _recording(name), _recording(name)
    second.at(NOON - 1000 * STEP)
    assert first.at(NOON) == second.at(NOON)
    assert first.at(NOON) != _recording(name, seed=2).at(NOON)


@pytest.mark.parametrize("name", ["coinpaprika", "coingecko"])
def test_times_move_to_now_and_keep_their_distance_to_the_newest(name: str) -> None:
    recorded = [
        record["last_updated"] for record in json.loads(next((FOLDER / name).glob("*.json")).read_text("utf-8"))
    ]
    served = [record["last_updated"] for record in _at(name, NOON)]
    newest = max(filter(None, recorded))
    assert datetime.fromisoformat(max(filter(None, served))) == datetime.fromtimestamp(NOON, UTC)
    for before, now in zip(recorded, served, strict=True):
        if not before:
            assert now == before
            continue
        age = datetime.fromisoformat(newest) - datetime.fromisoformat(before)
        assert datetime.fromtimestamp(NOON, UTC) - datetime.fromisoformat(now) == age
        assert len(now) == len(before)


def test_most_coins_are_minutes_old_and_some_are_stale() -> None:
    for name in ("coinpaprika", "coingecko"):
        ages = [
            datetime.fromtimestamp(NOON, UTC) - datetime.fromisoformat(record["last_updated"])
            for record in _at(name, NOON)
            if record["last_updated"]
        ]
        stale = sum(age > timedelta(hours=1) for age in ages)
        assert 10 < stale < len(ages) / 10
        assert sum(age < timedelta(minutes=5) for age in ages) == len(ages) - stale


def test_a_fresh_coin_has_news_at_the_next_step_and_a_stale_one_has_none() -> None:
    recording = _recording("coinpaprika")
    before, after = (list(map(json.loads, recording.at(moment))) for moment in (NOON, NOON + STEP))
    stale = datetime.fromtimestamp(NOON, UTC) - timedelta(hours=1)
    news = {old["id"]: old != new for old, new in zip(before, after, strict=True)}
    for record in before:
        if record["last_updated"]:
            assert news[record["id"]] == (datetime.fromisoformat(record["last_updated"]) > stale)


def test_a_price_walks_a_little_at_a_time_and_never_far() -> None:
    recording = _recording("coinpaprika")
    recording.records = recording.records[:1]
    bitcoins = [json.loads(recording.at(NOON + step * STEP)[0], parse_float=Decimal) for step in range(200)]
    prices = [bitcoin["quotes"]["USD"]["price"] for bitcoin in bitcoins]
    assert len(set(prices)) == len(prices)
    assert all(abs(after / before - 1) < Decimal("0.01") for before, after in pairwise(prices))
    assert all(abs(price / prices[0] - 1) < Decimal("0.1") for price in prices)


def test_all_that_follows_from_a_price_agrees_with_it() -> None:
    checked = 0
    for coin in _at("coingecko", NOON):
        price, change, since = (
            coin[name] for name in ("current_price", "price_change_24h", "price_change_percentage_24h")
        )
        if price is None or coin["low_24h"] is None:
            continue
        assert coin["low_24h"] <= price <= coin["high_24h"], coin["id"]
        if price > 1000:
            assert abs(change / (price - change) * 100 - since) < Decimal("0.1"), coin["id"]
            worth = price * Decimal(coin["circulating_supply"])
            assert abs(coin["market_cap"] / worth - 1) < Decimal("0.01"), coin["id"]
            checked += 1
    assert checked >= 4


def test_one_coin_costs_about_the_same_at_both_upstreams() -> None:
    coinpaprika = next(coin for coin in _at("coinpaprika", NOON) if coin["id"] == "btc-bitcoin")
    coingecko = next(coin for coin in _at("coingecko", NOON) if coin["id"] == "bitcoin")
    assert abs(coinpaprika["quotes"]["USD"]["price"] / coingecko["current_price"] - 1) < Decimal("0.02")


def test_numbers_are_spelled_as_the_upstreams_spell_them() -> None:
    go, ruby = (b"\n".join(_recording(name).at(NOON)) for name in ("coinpaprika", "coingecko"))
    assert re.search(rb'"price":\d(\.\d+)?e-\d[,}]', go)
    assert not re.search(rb'"price":0\.000000|e-0|\d\.\d*0[,}]', go)
    assert re.search(rb'"current_price":\d(\.\d+)?e-0\d,', ruby)
    assert re.search(rb'"current_price":\d{4,},', ruby)
    assert re.search(rb'"total_supply":4\.2e\+17,', ruby)
    assert not re.search(rb'"current_price":0\.0000', ruby)


def test_missing_stays_missing() -> None:
    coinpaprika, coingecko = _at("coinpaprika", NOON), _at("coingecko", NOON)
    assert any(coin["rank"] == 0 for coin in coinpaprika)
    assert any(coin["quotes"] and "price" not in coin["quotes"]["USD"] for coin in coinpaprika)
    assert any(coin["quotes"] and coin["quotes"]["USD"].get("price") == 0 for coin in coinpaprika)
    assert any("circulating_supply" not in coin for coin in coinpaprika)
    assert any(coin["id"] == "" for coin in coingecko)
    assert {"current_price", "market_cap_rank", "max_supply", "last_updated", "roi"} <= {
        name for coin in coingecko for name, value in coin.items() if value is None
    }


def test_a_folder_without_recordings_ends_it_with_the_reason(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "devstack.recorded_upstreams",
        "--port",
        str(_free_port()),
        "--folder",
        str(tmp_path),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert "coinpaprika/tickers.json" in ended.stderr
    assert "--folder" in ended.stderr
