"""Test that /rejects lists, counts, exports and replays rejects."""

from __future__ import annotations

import csv
import io
import json
import uuid
from hashlib import sha256

import pytest
from flask.testing import FlaskClient

from app.web import pagination
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON
from tests.app.runs.conftest import NUMBER, SYMBOL


def test_rejects_of_all_sources_are_listed_newest_first(api: FlaskClient, run_with_rejects: uuid.UUID) -> None:
    rejects = [reject for page in pages(api, "/rejects", limit=1) for reject in page]
    assert [(reject["source"], reject["item_index"], reject["state"]) for reject in rejects] == [
        ("coinpaprika", 1, "replayed"),
        ("coinpaprika", 0, "quarantined"),
        ("coingecko", 0, "quarantined"),
    ]
    assert rejects[0]["replayed_at"] == "2026-01-31T15:00:00Z"
    assert rejects[1]["body"] == sha256(b"b").hexdigest()
    assert rejects[1]["page"] == {"run": str(run_with_rejects), "partition": "", "seq": 0}
    assert [reason["field"] for reason in rejects[1]["reasons"]] == ["price", "symbol"]


def test_a_csv_file_counts_its_rows_and_preserves_every_character(
    api: FlaskClient, run_with_rejects: uuid.UUID
) -> None:
    response = api.get("/rejects?format=csv")
    assert (response.mimetype, response.headers["X-Row-Count"]) == ("text/csv", "3")
    assert response.headers["Content-Disposition"] == 'attachment; filename="rejects.csv"'
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert rows[1] == {
        "source": "coinpaprika",
        "body": sha256(b"b").hexdigest(),
        "item_index": "0",
        "state": "quarantined",
        "rejected_at": "2026-01-31T13:00:00.000000Z",
        "replayed_at": "",
        "reasons": rows[1]["reasons"],
        "item": '{"id": "x"}',
    }
    assert [reason["detail"] for reason in json.loads(rows[1]["reasons"])] == [NUMBER[2], SYMBOL[2]]


def test_rejects_are_counted_by_source_field_and_code(api: FlaskClient, run_with_rejects: uuid.UUID) -> None:
    response = get(api, "/rejects/reasons")
    counts = response["data"]
    assert not response["has_more"]
    members = ("source", "field", "code", "quarantined", "replayed")
    assert [tuple(count[member] for member in members) for count in counts] == [
        ("coingecko", "price", "no_price", 1, 0),
        ("coinpaprika", "price", "not_a_number", 1, 0),
        ("coinpaprika", "symbol", "missing", 1, 1),
    ]
    assert counts[2]["first_rejected_at"] == "2026-01-31T13:00:00Z"
    assert counts[2]["last_rejected_at"] == "2026-01-31T14:00:00Z"
    assert counts[0]["detail"] == "expected a price, got none"
    assert [count["source"] for count in get(api, "/rejects/reasons", code="no_price")["data"]] == ["coingecko"]


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
def test_an_unknown_or_invalid_parameter_is_named(api: FlaskClient, query: str, name: str) -> None:
    response = api.get(f"/rejects?{query}")
    assert response.status_code == 422
    assert [error["name"] for error in (response.json or {})["errors"]] == [name]


def test_a_forged_cursor_is_refused(api: FlaskClient, run_with_rejects: uuid.UUID) -> None:
    with api.application.test_request_context():
        forged = pagination.encode("/rejects", {"format": "json"}, (NOON, "coingecko", "no digest", 0))
    response = api.get(f"/rejects?cursor={forged}")
    assert (response.status_code, (response.json or {})["code"]) == (422, "invalid_cursor")


def test_rejects_in_quarantine_are_replayed_source_by_source(
    api: FlaskClient, token: dict[str, str], run_with_rejects: uuid.UUID
) -> None:
    response = api.post("/rejects/replay", json={}, headers=token)
    assert response.status_code == 202
    runs = (response.json or {})["data"]
    assert [(run["source"], run["kind"], run["parameters"]) for run in runs] == [
        ("coingecko", "replay", {"rejected": True}),
        ("coinpaprika", "replay", {"rejected": True}),
    ]
    again = api.post("/rejects/replay", json={"source": "coingecko"}, headers=token)
    assert [run["id"] for run in (again.json or {})["data"]] == [runs[0]["id"]]
    other = api.post("/rejects/replay", json={"source": "coingecko", "code": "no_price"}, headers=token)
    assert (other.status_code, (other.json or {})["code"]) == (409, "run_conflict")


def test_a_replay_is_limited_to_matching_rejects_and_needs_at_least_one(
    api: FlaskClient, token: dict[str, str], run_with_rejects: uuid.UUID
) -> None:
    body = {"code": "missing", "run": str(run_with_rejects)}
    [run] = (api.post("/rejects/replay", json=body, headers=token).json or {})["data"]
    assert run["parameters"] == {"rejected": True, "code": "missing", "run": str(run_with_rejects)}
    assert run["source"] == "coinpaprika"
    none = api.post("/rejects/replay", json={"code": "no_such"}, headers=token)
    assert (none.status_code, (none.json or {})["code"]) == (404, "no_rejects")
