"""Test that /runs requests, lists and cancels runs, and lists their rejects."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import pytest
from flask.testing import FlaskClient

from sources.registry import SOURCES
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows
from tests.app.runs.run_requests import BACKFILL, post_run


def test_one_request_starts_a_run_of_every_source(api: FlaskClient, token: dict[str, str]) -> None:
    response = post_run(api, token, {"all": True})
    assert [run["source"] for run in response.json["data"]] == list(SOURCES)
    assert "Location" not in response.headers


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "application/json", 422, "invalid_body"),
        (b"null", "application/json", 422, "invalid_body"),
        (b"{", "application/json", 400, "malformed_request"),
        (b"\xff\xfe", "application/json", 400, "malformed_request"),
        (b'{"source": ' + b"1" * 5000 + b"}", "application/json", 400, "malformed_request"),
        (b"[" * 60_000, "application/json", 400, "malformed_request"),
        (b"source=coingecko", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"source": "coingecko"}', "", 415, "unsupported_media_type"),
        (b'{"source": "' + b"x" * 70_000 + b'"}', "application/json", 413, "body_too_large"),
    ],
)
def test_an_unreadable_body_is_an_error(
    api: FlaskClient, token: dict[str, str], body: bytes, content_type: str, status: int, code: str
) -> None:
    response = api.post("/runs", data=body, content_type=content_type, headers=token)
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (status, code)


def test_runs_are_listed_once_newest_first(api: FlaskClient, rows: Rows) -> None:
    runs = [rows.run(requested_at=NOON + timedelta(minutes=minutes // 3)) for minutes in range(9)]
    rows.run("coinpaprika", "failed")
    ids = [run["id"] for page in pages(api, "/runs", limit=2, source="coingecko") for run in page]
    assert sorted(ids) == sorted(map(str, runs))
    times = [run["requested_at"] for page in pages(api, "/runs", limit=2) for run in page]
    assert times == sorted(times, reverse=True)
    assert [run["source"] for run in get(api, "/runs", status="failed")["data"]] == ["coinpaprika"]
    assert get(api, "/runs", kind="replay")["data"] == []


def test_a_queued_run_is_cancelled_immediately_and_a_finished_run_is_not_cancelled(
    api: FlaskClient, token: dict[str, str], rows: Rows
) -> None:
    cancelled = api.post(f"/runs/{rows.run(status='queued')}/cancel", headers=token)
    assert cancelled.json is not None
    assert (cancelled.status_code, cancelled.json["status"]) == (202, "cancelled")
    finished = api.post(f"/runs/{rows.run(status='succeeded')}/cancel", headers=token)
    assert finished.json is not None
    assert (finished.status_code, finished.json["code"]) == (409, "run_finished")


def test_rejects_of_a_run_are_listed_with_their_reasons_page_by_page(api: FlaskClient, rows: Rows) -> None:
    run = rows.run(status="partial")
    for seq in range(2):
        digest = rows.page(run, seq, body=b"%d" % seq, rejected=3)
        for index in range(3):
            rows.reject(digest, index, item=f'{{"id": "coin-{seq}-{index}"}}')
    rows.reject(rows.page(rows.run(status="partial"), body=b"another's", rejected=1))
    rejects = [reject for page in pages(api, f"/runs/{run}/rejects", limit=2) for reject in page]
    places = [(reject["page"]["seq"], reject["item_index"]) for reject in rejects]
    assert places == [(seq, index) for seq in range(2) for index in range(3)]
    assert rejects[0] == {
        "source": "coingecko",
        "body": sha256(b"0").hexdigest(),
        "item": '{"id": "coin-0-0"}',
        "reasons": [{"field": "price", "code": "no_price", "detail": "expected a price, got none"}],
        "item_index": 0,
        "page": {"run": str(run), "partition": "", "seq": 0},
        "state": "quarantined",
        "rejected_at": "2026-01-31T12:00:00Z",
        "replayed_at": None,
    }


def test_a_replay_is_requested_next_to_a_live_run(api: FlaskClient, token: dict[str, str]) -> None:
    live = api.post("/runs", json={"source": "coingecko"}, headers=token)
    body = {"source": "coingecko", "kind": "replay", "fetched_from": "2026-01-01T02:00:00+02:00"}
    [run] = (api.post("/runs", json=body, headers=token).json or {})["data"]
    assert run["id"] != (live.json or {})["data"][0]["id"]
    assert (run["kind"], run["parameters"]) == ("replay", {"fetched_from": "2026-01-01T00:00:00+00:00"})


def test_a_dry_run_shows_what_a_backfill_would_fetch_before_it_is_requested(
    api: FlaskClient, token: dict[str, str], rows: Rows
) -> None:
    rows.listing("bitcoin", "coingecko")
    body = {**BACKFILL, "observed_to": "2025-07-01T00:00:00Z"}
    dry = post_run(api, token, {**body, "assets": ["bitcoin", "nothing"], "dry_run": True})
    assert dry.status_code == 200
    assert dry.json["data"] == [
        {"source": "coingecko", "listings": 1, "spans": 3, "skipped": 0, "missing": ["nothing"]}
    ]
    assert get(api, "/runs")["data"] == []
    [run] = post_run(api, token, {**body, "existing": "retry"}).json["data"]
    assert (run["kind"], run["parameters"]) == (
        "backfill",
        {
            "assets": ["bitcoin"],
            "observed_from": "2025-01-01T00:00:00+00:00",
            "observed_to": "2025-07-01T00:00:00+00:00",
            "existing": "retry",
        },
    )
    assert post_run(api, token, {**body, "existing": "retry"}).json["data"][0]["id"] == run["id"]
    other = post_run(api, token, {**body, "observed_to": "2026-06-01T00:00:00Z"})
    assert other.json["data"][0]["id"] != run["id"], "a source may have several backfills"
