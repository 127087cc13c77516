"""Test that the recorded upstreams respond like the real ones, with current times."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from devstack.recorded_upstreams import STEP, routes
from tests.devstack.recordings import FOLDER, NOON, ROOT, read_recording, records_at

TICKERS, MARKETS = "/coinpaprika/v1/tickers", "/coingecko/api/v3/coins/markets"
PAGE_QUERY: dict[str, str | int] = {"vs_currency": "usd", "per_page": 250}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def upstreams() -> Iterator[str]:
    """Start the recorded upstreams, and yield their base URL."""
    port = _free_port()
    command = [sys.executable, "-m", "devstack.recorded_upstreams", "--port", str(port), "--folder", str(FOLDER)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            assert process.wait(timeout=10) == 0


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.get(f"http://127.0.0.1:{port}/healthz", timeout=1).raise_for_status()
            return
        except requests.ConnectionError:
            time.sleep(0.02)
    raise AssertionError("the recorded upstreams did not start")


def test_coinpaprika_returns_one_list_and_coingecko_ends_with_an_empty_page(upstreams: str) -> None:
    tickers = requests.get(upstreams + TICKERS, params={"quotes": "USD"}, timeout=10)
    pages = [requests.get(upstreams + MARKETS, params={**PAGE_QUERY, "page": page}, timeout=10) for page in range(1, 5)]
    assert len(tickers.json()) > 500
    assert [len(page.json()) for page in pages[:2]] == [250, 250]
    assert 0 < len(pages[2].json()) < 250
    assert pages[3].text == "[]"
    assert {page.status_code for page in pages} == {200}


def test_a_page_has_100_coins_by_default(upstreams: str) -> None:
    assert len(requests.get(upstreams + MARKETS, params={"vs_currency": "usd"}, timeout=10).json()) == 100


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
def test_an_invalid_request_gets_an_error_object(upstreams: str, path: str, status: int, error: str) -> None:
    response = requests.get(upstreams + path, timeout=10)
    assert (response.status_code, response.json()) == (status, {"error": error})


def test_a_trailing_slash_is_redirected_with_an_html_page(upstreams: str) -> None:
    response = requests.get(f"{upstreams}{TICKERS}/?quotes=USD", timeout=10, allow_redirects=False)
    assert (response.status_code, response.headers["Location"]) == (301, f"{TICKERS}?quotes=USD")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "Moved Permanently" in response.text


def test_a_connection_serves_many_requests_and_compresses_if_the_client_accepts_it(upstreams: str) -> None:
    with requests.Session() as session:
        compressed = session.get(upstreams + TICKERS, timeout=10, stream=True)
        connection = compressed.raw.connection
        assert compressed.headers["Content-Encoding"] == "gzip"
        assert len(compressed.content) > 4 * int(compressed.headers["Content-Length"])
        plain = session.get(upstreams + TICKERS, timeout=10, stream=True, headers={"Accept-Encoding": "identity"})
        assert plain.raw.connection is connection
        assert "Content-Encoding" not in plain.headers
        assert len(plain.content) == int(plain.headers["Content-Length"])


def test_an_unchanged_response_is_not_sent_again() -> None:
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
            _wait_until_ready(process, port)
            url = f"http://127.0.0.1:{port}{TICKERS}"
            first = requests.get(url, timeout=10)
            again = requests.get(url, timeout=10, headers={"If-None-Match": first.headers["ETag"]})
            other = requests.get(url, timeout=10, headers={"If-None-Match": 'W/"another"'})
        finally:
            process.terminate()
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert (other.status_code, other.content) == (200, first.content)


def test_frozen_responses_are_identical_and_differ_between_seeds() -> None:
    def frozen(seed: int) -> list[bytes]:
        paths = routes(FOLDER, seed, freeze=True)
        return [paths[TICKERS]({}).body, paths[MARKETS]({"vs_currency": "usd", "per_page": "250"}).body]

    assert frozen(1) == frozen(1)
    assert all(first != second for first, second in zip(frozen(1), frozen(2), strict=True))


@pytest.mark.parametrize("name", ["coinpaprika", "coingecko"])
def test_the_step_and_the_seed_determine_every_byte(name: str) -> None:
    first, second = read_recording(name), read_recording(name)
    second.at(NOON - 1000 * STEP)
    assert first.at(NOON) == second.at(NOON)
    assert first.at(NOON) != read_recording(name, seed=2).at(NOON)


@pytest.mark.parametrize("name", ["coinpaprika", "coingecko"])
def test_the_newest_time_becomes_now_and_all_ages_stay_the_same(name: str) -> None:
    recorded = [
        record["last_updated"] for record in json.loads(next((FOLDER / name).glob("*.json")).read_text("utf-8"))
    ]
    served = [record["last_updated"] for record in records_at(name, NOON)]
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
            for record in records_at(name, NOON)
            if record["last_updated"]
        ]
        stale = sum(age > timedelta(hours=1) for age in ages)
        assert 10 < stale < len(ages) / 10
        assert sum(age < timedelta(minutes=5) for age in ages) == len(ages) - stale


def test_a_fresh_coin_changes_at_the_next_step_and_a_stale_one_does_not() -> None:
    recording = read_recording("coinpaprika")
    before, after = (list(map(json.loads, recording.at(moment))) for moment in (NOON, NOON + STEP))
    stale = datetime.fromtimestamp(NOON, UTC) - timedelta(hours=1)
    changed = {old["id"]: old != new for old, new in zip(before, after, strict=True)}
    for record in before:
        if record["last_updated"]:
            assert changed[record["id"]] == (datetime.fromisoformat(record["last_updated"]) > stale)


def test_a_folder_without_recordings_is_reported(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "devstack.recorded_upstreams",
        "--port",
        str(_free_port()),
        "--folder",
        str(tmp_path),
    ]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert process.returncode == 2
    assert "coinpaprika/tickers.json" in process.stderr
    assert "--folder" in process.stderr
