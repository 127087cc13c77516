"""Test the response cache: it returns only unchanged data to authorized clients, and stays within its limits."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app.web.etags import Tag
from app.web.response_cache import KEY, MAX_AGE, OVERHEAD_BYTES, ResponseCache
from settings import Settings
from tests.app.conftest import TOKEN, serve
from tests.app.rows import NOON, Rows

PATH = "/data?limit=2"


@pytest.fixture(autouse=True)
def quotes(rows: Rows) -> None:
    """Insert three quotes of a source that has a checkpoint."""
    rows.checkpoint(version=1, updated_at=NOON)
    listing = rows.listing()
    for hours in range(3):
        rows.quote(listing, NOON - timedelta(hours=hours))


@pytest.fixture(autouse=True)
def frozen_clock(app: Flask) -> None:
    app.extensions[KEY] = ResponseCache(1024 * 1024, timer=lambda: 0.0)


@pytest.fixture
def lock_tables(engine: Engine) -> Iterator[Any]:
    """Return a function that locks quotes, listings and assets against reads until the end of the test."""
    with engine.connect() as connection:
        yield lambda: connection.execute(text("LOCK TABLE quotes, listings, assets IN ACCESS EXCLUSIVE MODE"))


@pytest.mark.parametrize("path", [PATH, "/data/latest", "/assets", "/assets/bitcoin", "/data?asset=bitcoin"])
def test_an_unchanged_response_is_not_read_again(api: FlaskClient, lock_tables: Any, path: str) -> None:
    first: Any = api.get(path)
    lock_tables()
    second: Any = api.get(path)
    assert second.status_code == 200
    envelope = {"request_id": second.headers["X-Request-ID"], "api_latency_seconds": second.json["api_latency_seconds"]}
    assert second.json == {**first.json, **envelope}
    assert second.json["request_id"] != first.json["request_id"]
    for name in ("ETag", "Link", "Cache-Control", "Content-Type", "Vary"):
        assert second.headers.get(name) == first.headers.get(name)


def test_clients_with_and_without_gzip_share_a_cached_response(api: FlaskClient, lock_tables: Any) -> None:
    first: Any = api.get("/data", headers={"Accept-Encoding": "gzip"})
    lock_tables()
    plain: Any = api.get("/data")
    compressed: Any = api.get("/data", headers={"Accept-Encoding": "gzip"})
    bodies = [json.loads(gzip.decompress(response.data)) for response in (first, compressed)]
    assert plain.json["data"] == bodies[0]["data"] == bodies[1]["data"] != []


def test_another_query_gets_another_response(api: FlaskClient) -> None:
    responses: list[Any] = [api.get(path) for path in (PATH, "/data?limit=1", "/data")]
    assert [len(response.json["data"]) for response in responses] == [2, 1, 3]


def test_only_get_and_head_requests_use_the_cache(api: FlaskClient, token: dict[str, str]) -> None:
    assert api.get(PATH).status_code == 200
    assert api.post(PATH, headers=token).status_code == 405
    assert api.options(PATH).data == b""
    head = api.head(PATH)
    assert (head.status_code, head.data, head.headers["ETag"]) == (200, b"", api.get(PATH).headers["ETag"])


def test_an_export_is_complete_each_time(api: FlaskClient) -> None:
    for _ in range(2):
        *lines, last = api.get("/data?format=ndjson&summary=line", buffered=True).text.splitlines()
        assert len(lines) == json.loads(last)["rows"] == 3


def test_a_client_without_the_token_gets_no_cached_response(api_settings: Settings) -> None:
    for app in serve(replace(api_settings, reads_need_token=True)):
        client = app.test_client()
        assert client.get(PATH, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get(PATH).status_code == 401


def test_the_cache_is_not_used_while_the_state_of_the_data_is_unknown(api_settings: Settings, engine: Engine) -> None:
    for app in serve(replace(api_settings, statement_timeout=0.3)):
        client = app.test_client()
        assert client.get(PATH).status_code == 200
        with engine.connect() as connection:
            connection.execute(text("LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE"))
            response: Any = client.get(PATH)
        assert (response.status_code, response.json["code"]) == (503, "query_timeout")


def store(cache: ResponseCache, query: str, size: int) -> None:
    cache.store(("/data", query.encode()), Tag("etag", "state"), Response(b"x" * size))


def test_the_cache_stays_within_its_size_limit_and_evicts_the_least_recently_used() -> None:
    cache = ResponseCache(3 * (1000 + OVERHEAD_BYTES + len("/dataone")))
    for query in ("one", "two", "six"):
        store(cache, query, 1000)
    assert cache.find(("/data", b"one"))
    store(cache, "ten", 1000)
    cached = [query for query in (b"one", b"two", b"six", b"ten") if cache.find(("/data", query))]
    assert cached == [b"one", b"six", b"ten"]
    store(cache, "all", 10_000)
    assert not cache.find(("/data", b"all"))
    store(cache, "q" * 6000, 0)
    assert not cache.find(("/data", b"q" * 6000))


def test_a_manual_change_is_visible_after_the_maximum_age(app: Flask, engine: Engine) -> None:
    now = 0.0
    app.extensions[KEY] = ResponseCache(1024 * 1024, timer=lambda: now)
    before = price(app)
    with engine.begin() as connection:
        connection.execute(text("UPDATE quotes SET price = 7"))
    now = MAX_AGE - 0.1
    assert price(app) == before != "7"
    now = MAX_AGE + 0.1
    assert price(app) == "7"


def price(app: Flask) -> str:
    response: Any = app.test_client().get(PATH)
    return str(response.json["data"][0]["price"])
