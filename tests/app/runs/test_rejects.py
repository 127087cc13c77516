"""/rejects: what is in quarantine is found, counted, taken away as a file, and replayed."""

from __future__ import annotations

import csv
import io
import json
import uuid
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.web import pagination
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows

NUMBER = ("price", "not_a_number", "expected a number")
SYMBOL = ("symbol", "missing", 'expected "text",\nof some length')


@pytest.fixture
def three(rows: Rows) -> uuid.UUID:
    """Three rejects of two sources, an hour apart, the last two of them of the run that is given."""
    rows.reject(rows.page(rows.run(), body=b"a", rejected=1))
    run = rows.run(source="coinpaprika")
    digest = rows.page(run, body=b"b", source="coinpaprika", rejected=2)
    rows.reject(
        digest, 0, "coinpaprika", item='{"id": "x"}', reasons=[NUMBER, SYMBOL], rejected_at=NOON + timedelta(hours=1)
    )
    replayed = {"state": "replayed", "replayed_at": NOON + timedelta(hours=3)}
    rows.reject(digest, 1, "coinpaprika", reasons=[SYMBOL], rejected_at=NOON + timedelta(hours=2), **replayed)
    return run


def test_rejects_of_all_sources_come_newest_first(api: FlaskClient, three: uuid.UUID) -> None:
    found = [reject for page in pages(api, "/rejects", limit=1) for reject in page]
    assert [(it["source"], it["item_index"], it["state"]) for it in found] == [
        ("coinpaprika", 1, "replayed"),
        ("coinpaprika", 0, "quarantined"),
        ("coingecko", 0, "quarantined"),
    ]
    assert found[0]["replayed_at"] == "2026-01-31T15:00:00Z"
    assert found[1]["body"] == sha256(b"b").hexdigest()
    assert found[1]["page"] == {"run": str(three), "partition": "", "seq": 0}
    assert [reason["field"] for reason in found[1]["reasons"]] == ["price", "symbol"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"source": "coingecko"}, {"coingecko 0"}),
        ({"source": ["coingecko", "coinpaprika"]}, {"coingecko 0", "coinpaprika 0", "coinpaprika 1"}),
        ({"state": "replayed"}, {"coinpaprika 1"}),
        ({"code": "missing"}, {"coinpaprika 0", "coinpaprika 1"}),
        ({"code": "missing", "state": "quarantined"}, {"coinpaprika 0"}),
        ({"field": "price"}, {"coingecko 0", "coinpaprika 0"}),
        ({"field": "price", "code": "missing"}, set()),
        ({"body": sha256(b"a").hexdigest()}, {"coingecko 0"}),
        ({"run": "theirs"}, {"coinpaprika 0", "coinpaprika 1"}),
        ({"rejected_from": "2026-01-31T13:00:00Z"}, {"coinpaprika 0", "coinpaprika 1"}),
        ({"rejected_to": "2026-01-31T13:00:00Z"}, {"coingecko 0"}),
    ],
)
def test_filters_keep_what_they_say(
    api: FlaskClient, three: uuid.UUID, query: dict[str, Any], expected: set[str]
) -> None:
    if "run" in query:
        query = {"run": str(three)}
    found = get(api, "/rejects", **query)["data"]
    assert {f"{it['source']} {it['item_index']}" for it in found} == expected
    rows = list(csv.DictReader(io.StringIO(api.get("/rejects", query_string={**query, "format": "csv"}).text)))
    assert {f"{it['source']} {it['item_index']}" for it in rows} == expected


def test_a_file_of_rejects_says_how_many_and_keeps_every_character(api: FlaskClient, three: uuid.UUID) -> None:
    answer = api.get("/rejects?format=csv")
    assert (answer.mimetype, answer.headers["X-Row-Count"]) == ("text/csv", "3")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="rejects.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert rows[1] == {
        "source": "coinpaprika",
        "body": sha256(b"b").hexdigest(),
        "item_index": "0",
        "state": "quarantined",
        "rejected_at": "2026-01-31T13:00:00Z",
        "replayed_at": "",
        "reasons": rows[1]["reasons"],
        "item": '{"id": "x"}',
    }
    assert [reason["detail"] for reason in json.loads(rows[1]["reasons"])] == [NUMBER[2], SYMBOL[2]]


def test_rejects_are_counted_by_source_field_and_code(api: FlaskClient, three: uuid.UUID) -> None:
    answer = get(api, "/rejects/reasons")
    counted = answer["data"]
    assert not answer["has_more"]
    numbers = [(it["source"], it["field"], it["code"], it["quarantined"], it["replayed"]) for it in counted]
    assert numbers == [
        ("coingecko", "price", "no_price", 1, 0),
        ("coinpaprika", "price", "not_a_number", 1, 0),
        ("coinpaprika", "symbol", "missing", 1, 1),
    ]
    assert counted[2]["first_rejected_at"] == "2026-01-31T13:00:00Z"
    assert counted[2]["last_rejected_at"] == "2026-01-31T14:00:00Z"
    assert counted[0]["detail"] == "expected a price, got none"
    assert [it["source"] for it in get(api, "/rejects/reasons", code="no_price")["data"]] == ["coingecko"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("body=abc", "body"),
        ("state=lost", "state"),
        ("run=7", "run"),
        ("rejected_from=yesterday", "rejected_from"),
        ("format=csv&limit=1", "limit"),
        ("reason=x", "reason"),
    ],
)
def test_what_is_not_taken_is_named(api: FlaskClient, query: str, name: str) -> None:
    answer = api.get(f"/rejects?{query}")
    assert answer.status_code == 422
    assert [error["name"] for error in (answer.json or {})["errors"]] == [name]


def test_a_cursor_that_was_tampered_with_is_refused(api: FlaskClient, three: uuid.UUID) -> None:
    with api.application.test_request_context():
        forged = pagination.encode("/rejects", {"format": "json"}, (NOON, "coingecko", "no digest", 0))
    answer = api.get(f"/rejects?cursor={forged}")
    assert (answer.status_code, (answer.json or {})["code"]) == (422, "invalid_cursor")


def test_what_is_in_quarantine_is_replayed_source_by_source(
    api: FlaskClient, token: dict[str, str], three: uuid.UUID
) -> None:
    answer = api.post("/rejects/replay", json={}, headers=token)
    assert answer.status_code == 202
    runs = (answer.json or {})["data"]
    assert [(run["source"], run["kind"], run["parameters"]) for run in runs] == [
        ("coingecko", "replay", {"rejected": True}),
        ("coinpaprika", "replay", {"rejected": True}),
    ]
    again = api.post("/rejects/replay", json={"source": "coingecko"}, headers=token)
    assert [run["id"] for run in (again.json or {})["data"]] == [runs[0]["id"]]
    other = api.post("/rejects/replay", json={"source": "coingecko", "code": "no_price"}, headers=token)
    assert (other.status_code, (other.json or {})["code"]) == (409, "run_conflict")


def test_a_group_is_replayed_where_there_is_such(api: FlaskClient, token: dict[str, str], three: uuid.UUID) -> None:
    [run] = (api.post("/rejects/replay", json={"code": "missing", "run": str(three)}, headers=token).json or {})["data"]
    assert run["parameters"] == {"rejected": True, "code": "missing", "run": str(three)}
    assert run["source"] == "coinpaprika"
    none = api.post("/rejects/replay", json={"code": "no_such"}, headers=token)
    assert (none.status_code, (none.json or {})["code"]) == (404, "no_rejects")


def test_a_run_may_be_a_replay_of_what_is_kept(api: FlaskClient, token: dict[str, str]) -> None:
    live = api.post("/runs", json={"source": "coingecko"}, headers=token)
    body = {"source": "coingecko", "kind": "replay", "fetched_from": "2026-01-01T02:00:00+02:00"}
    [run] = (api.post("/runs", json=body, headers=token).json or {})["data"]
    assert run["id"] != (live.json or {})["data"][0]["id"]
    assert (run["kind"], run["parameters"]) == ("replay", {"fetched_from": "2026-01-01T00:00:00+00:00"})


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"kind": "replay", "full_refresh": True}, "full_refresh"),
        ({"fetched_from": "2026-01-01T00:00:00Z"}, "fetched_from"),
        ({"kind": "live", "run": str(uuid.UUID(int=1))}, "run"),
        ({"kind": "replay", "run": "mine"}, "run"),
        ({"kind": "backfill", "full_refresh": True}, "full_refresh"),
    ],
)
def test_what_does_not_fit_the_kind_of_run_is_named(
    api: FlaskClient, token: dict[str, str], body: dict[str, Any], name: str
) -> None:
    answer = api.post("/runs", json={"source": "coingecko", **body}, headers=token)
    assert answer.status_code == 422
    assert [error["name"] for error in (answer.json or {})["errors"]] == [name]
