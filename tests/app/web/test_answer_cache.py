"""Answers that are given again: as long as nothing has changed, to whoever may have them, and within bounds."""

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

from app.web.answer_cache import AGE, KEY, OVERHEAD, AnswerCache
from app.web.etags import Tag
from settings import Settings
from tests.app.conftest import TOKEN, serve
from tests.app.rows import NOON, Rows

PATH = "/data?limit=2"


@pytest.fixture(autouse=True)
def quotes(rows: Rows) -> None:
    """Three, of a source that has a checkpoint."""
    rows.checkpoint(version=1, updated_at=NOON)
    listing = rows.listing()
    for hours in range(3):
        rows.quote(listing, NOON - timedelta(hours=hours))


@pytest.fixture(autouse=True)
def no_time_passes(app: Flask) -> None:
    app.extensions[KEY] = AnswerCache(1024 * 1024, timer=lambda: 0.0)


@pytest.fixture
def locked(engine: Engine) -> Iterator[Any]:
    """Takes the quotes, listings and assets away from all who would read them, for as long as the test lasts."""
    with engine.connect() as connection:
        yield lambda: connection.execute(text("LOCK TABLE quotes, listings, assets IN ACCESS EXCLUSIVE MODE"))


@pytest.mark.parametrize("path", [PATH, "/data/latest", "/assets", "/assets/bitcoin", "/data?asset=bitcoin"])
def test_what_has_not_changed_is_not_read_again(api: FlaskClient, locked: Any, path: str) -> None:
    first: Any = api.get(path)
    locked()
    again: Any = api.get(path)
    assert again.status_code == 200
    own = {"request_id": again.headers["X-Request-ID"], "api_latency_seconds": again.json["api_latency_seconds"]}
    assert again.json == {**first.json, **own}
    assert again.json["request_id"] != first.json["request_id"]
    for name in ("ETag", "Link", "Cache-Control", "Content-Type", "Vary"):
        assert again.headers.get(name) == first.headers.get(name)


def test_who_accepts_gzip_and_who_does_not_are_given_the_same_again(api: FlaskClient, locked: Any) -> None:
    first: Any = api.get("/data", headers={"Accept-Encoding": "gzip"})
    locked()
    plain: Any = api.get("/data")
    packed: Any = api.get("/data", headers={"Accept-Encoding": "gzip"})
    unpacked = [json.loads(gzip.decompress(answer.data)) for answer in (first, packed)]
    assert plain.json["data"] == unpacked[0]["data"] == unpacked[1]["data"] != []


def test_another_question_has_another_answer(api: FlaskClient) -> None:
    assert [len(answer.json["data"]) for answer in (api.get(PATH), api.get("/data?limit=1"), api.get("/data"))] == [
        2,
        1,
        3,
    ]


def test_only_reading_is_answered_with_it(api: FlaskClient, token: dict[str, str]) -> None:
    assert api.get(PATH).status_code == 200
    assert api.post(PATH, headers=token).status_code == 405
    assert api.options(PATH).data == b""
    head = api.head(PATH)
    assert (head.status_code, head.data, head.headers["ETag"]) == (200, b"", api.get(PATH).headers["ETag"])


def test_an_export_is_whole_each_time(api: FlaskClient) -> None:
    for _ in range(2):
        *lines, last = api.get("/data?format=ndjson", buffered=True).text.splitlines()
        assert len(lines) == json.loads(last)["rows"] == 3


def test_who_may_not_read_is_not_given_what_another_read(api_settings: Settings) -> None:
    for app in serve(replace(api_settings, reads_need_token=True)):
        client = app.test_client()
        assert client.get(PATH, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get(PATH).status_code == 401


def test_where_nobody_can_say_whether_it_has_changed_it_is_not_given_again(
    api_settings: Settings, engine: Engine
) -> None:
    for app in serve(replace(api_settings, statement_timeout=0.3)):
        client = app.test_client()
        assert client.get(PATH).status_code == 200
        with engine.connect() as connection:
            connection.execute(text("LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE"))
            answer: Any = client.get(PATH)
        assert (answer.status_code, answer.json["code"]) == (503, "query_timeout")


def kept(answers: AnswerCache, query: str, size: int) -> None:
    answers.keep(("/data", query.encode()), Tag("etag", "state"), Response(b"x" * size))


def test_it_takes_no_more_memory_than_it_may_and_lets_go_of_what_was_asked_for_least_recently() -> None:
    answers = AnswerCache(3 * (1000 + OVERHEAD + len("/dataone")))
    for query in ("one", "two", "six"):
        kept(answers, query, 1000)
    assert answers.find(("/data", b"one"))
    kept(answers, "ten", 1000)
    assert [bool(answers.find(("/data", query))) for query in (b"one", b"two", b"six", b"ten")] == [
        True,
        False,
        True,
        True,
    ]
    kept(answers, "all", 10_000)
    assert not answers.find(("/data", b"all"))
    kept(answers, "q" * 6000, 0)
    assert not answers.find(("/data", b"q" * 6000))


def test_what_was_changed_behind_its_back_is_read_some_seconds_later(app: Flask, engine: Engine) -> None:
    now = 0.0
    app.extensions[KEY] = AnswerCache(1024 * 1024, timer=lambda: now)
    before = price(app)
    with engine.begin() as connection:
        connection.execute(text("UPDATE quotes SET price = 7"))
    now = AGE - 0.1
    assert price(app) == before != "7"
    now = AGE + 0.1
    assert price(app) == "7"


def price(app: Flask) -> str:
    answer: Any = app.test_client().get(PATH)
    return str(answer.json["data"][0]["price"])
