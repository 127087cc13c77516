"""/runs: what is asked for is kept and answered once; what it came to can be read."""

from __future__ import annotations

import uuid
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, func, select

from sources.registry import SOURCES
from store.tables import RunRow
from tests.app.quotes.test_data import get, pages
from tests.app.rows import NOON, Rows


def ask(api: FlaskClient, token: dict[str, str], body: Any, **headers: str) -> Any:
    return api.post("/runs", json=body, headers={**token, **headers})


def test_a_run_asked_for_is_kept_and_its_location_leads_to_it(api: FlaskClient, token: dict[str, str]) -> None:
    answer = ask(api, token, {"source": "coingecko"}, **{"X-Request-ID": "mine"})
    assert answer.status_code == 202
    [run] = answer.json["data"]
    assert (run["source"], run["kind"], run["status"], run["parameters"]) == ("coingecko", "live", "queued", {})
    assert answer.headers["Location"] == f"/runs/{run['id']}"
    found = get(api, answer.headers["Location"])
    assert {name: found[name] for name in run} == run


def test_all_sources_are_asked_for_at_once(api: FlaskClient, token: dict[str, str]) -> None:
    answer = ask(api, token, {"all": True})
    assert [run["source"] for run in answer.json["data"]] == list(SOURCES)
    assert "Location" not in answer.headers


def test_a_live_run_answers_for_the_same_parameters_and_conflicts_with_others(
    api: FlaskClient, token: dict[str, str], engine: Engine
) -> None:
    first = ask(api, token, {"source": "coingecko"}).json["data"][0]["id"]
    assert ask(api, token, {"sources": ["coingecko", "coingecko"]}).json["data"][0]["id"] == first
    conflict = ask(api, token, {"sources": ["coinpaprika", "coingecko"], "full_refresh": True})
    assert (conflict.status_code, conflict.json["code"]) == (409, "run_conflict")
    assert first in conflict.json["detail"]
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(RunRow)) == 1


def test_an_idempotency_key_answers_the_same_runs_and_refuses_another_body(
    api: FlaskClient, token: dict[str, str]
) -> None:
    first = ask(api, token, {"source": "coingecko"}, **{"Idempotency-Key": "k"})
    again = ask(api, token, {"source": "coingecko"}, **{"Idempotency-Key": "k"})
    assert again.json["data"][0]["id"] == first.json["data"][0]["id"]
    other = ask(api, token, {"source": "coinpaprika"}, **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")
    long = ask(api, token, {"source": "coingecko"}, **{"Idempotency-Key": "k" * 256})
    assert (long.status_code, long.json["errors"][0]["name"]) == (422, "Idempotency-Key")


@pytest.mark.parametrize(
    ("body", "name", "said"),
    [
        ({}, "", "exactly one"),
        ({"source": "coingecko", "all": True}, "", "exactly one"),
        ({"all": False}, "all", ""),
        ({"source": "coingeko"}, "source", "did you mean 'coingecko'?"),
        ({"source": "coin\ud800gecko\0"}, "source", "expected one of"),
        ({"source": 7}, "source", "expected one of"),
        ({"sources": ["coingecko", "x"]}, "sources", "expected one of"),
        ({"sources": []}, "sources", "1 to 100"),
        ({"sources": "coingecko"}, "sources", "list"),
        ({"sorce": "coingecko"}, "sorce", "did you mean 'source'?"),
        ({"source": "coingecko", "kind": "past"}, "kind", "expected one of live"),
        ({"source": "coingecko", "full_refresh": "maybe"}, "full_refresh", "boolean"),
        ([], "", "Invalid input"),
        (None, "", "no body"),
    ],
)
def test_a_body_that_is_not_taken_is_a_422_that_says_why(
    api: FlaskClient, token: dict[str, str], body: Any, name: str, said: str
) -> None:
    answer = ask(api, token, body)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_body")
    assert any(wrong["name"] == name and said in wrong["detail"] for wrong in answer.json["errors"])


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
def test_a_body_that_cannot_be_read_is_a_problem(
    api: FlaskClient, token: dict[str, str], body: bytes, content_type: str, status: int, code: str
) -> None:
    answer = api.post("/runs", data=body, content_type=content_type, headers=token)
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (status, code)


def test_a_run_shows_its_sums_its_error_and_its_duration(api: FlaskClient, rows: Rows) -> None:
    run = rows.run(status="failed", error_code="upstream_refused", error_detail="402: the quota is used up")
    rows.page(run, 0, inserted=3, rejected=1)
    rows.page(run, 1, updated=2, unchanged=4, deduplicated=1, blank=2)
    found = get(api, f"/runs/{run}")
    assert found["counters"] == {
        "pages": 2,
        "fetched": 11,
        "inserted": 3,
        "updated": 2,
        "unchanged": 4,
        "deduplicated": 1,
        "rejected": 1,
        "blank": 2,
        "bytes": 4,
    }
    assert found["error"] == {"code": "upstream_refused", "detail": "402: the quota is used up"}
    assert found["duration_seconds"] == 2.0
    assert found["finished_at"] == "2026-01-31T12:00:03Z"


def test_runs_are_listed_newest_first_each_once(api: FlaskClient, rows: Rows) -> None:
    asked = [rows.run(requested_at=NOON + timedelta(minutes=minutes // 3)) for minutes in range(9)]
    rows.run("coinpaprika", "failed")
    seen = [run["id"] for page in pages(api, "/runs", limit=2, source="coingecko") for run in page]
    assert sorted(seen) == sorted(map(str, asked))
    times = [run["requested_at"] for page in pages(api, "/runs", limit=2) for run in page]
    assert times == sorted(times, reverse=True)
    assert [run["source"] for run in get(api, "/runs", status="failed")["data"]] == ["coinpaprika"]
    assert get(api, "/runs", kind="replay")["data"] == []


def test_a_queued_run_is_cancelled_at_once_and_an_ended_one_is_not(
    api: FlaskClient, token: dict[str, str], rows: Rows
) -> None:
    cancelled = api.post(f"/runs/{rows.run(status='queued')}/cancel", headers=token)
    assert cancelled.json is not None
    assert (cancelled.status_code, cancelled.json["status"]) == (202, "cancelled")
    ended = api.post(f"/runs/{rows.run(status='succeeded')}/cancel", headers=token)
    assert ended.json is not None
    assert (ended.status_code, ended.json["code"]) == (409, "run_finished")


@pytest.mark.parametrize("path", ["/runs/7", f"/runs/{uuid.UUID(int=7)}", "/runs/%ff/rejects"])
def test_a_run_that_is_not_there_is_a_404(api: FlaskClient, path: str) -> None:
    answer = api.get(path)
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (404, "unknown_run")


def test_rejects_come_with_their_reasons_page_by_page(api: FlaskClient, rows: Rows) -> None:
    run = rows.run(status="partial")
    for seq in range(2):
        digest = rows.page(run, seq, body=b"%d" % seq, rejected=3)
        for index in range(3):
            rows.reject(digest, index, item=f'{{"id": "coin-{seq}-{index}"}}')
    rows.reject(rows.page(rows.run(status="partial"), body=b"another's", rejected=1))
    found = [reject for page in pages(api, f"/runs/{run}/rejects", limit=2) for reject in page]
    assert [(it["page"]["seq"], it["item_index"]) for it in found] == [(s, i) for s in range(2) for i in range(3)]
    assert found[0] == {
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


PAST = {"source": "coingecko", "kind": "backfill", "assets": ["bitcoin"], "observed_from": "2025-01-01T00:00:00Z"}


def test_a_backfill_is_asked_for_once_it_was_seen_what_it_would_do(
    api: FlaskClient, token: dict[str, str], rows: Rows
) -> None:
    rows.listing("bitcoin", "coingecko")
    body = {**PAST, "observed_to": "2025-07-01T00:00:00Z"}
    dry = ask(api, token, {**body, "assets": ["bitcoin", "nothing"], "dry_run": True})
    assert dry.status_code == 200
    assert dry.json["data"] == [
        {"source": "coingecko", "listings": 1, "spans": 3, "skipped": 0, "missing": ["nothing"]}
    ]
    assert get(api, "/runs")["data"] == []
    [run] = ask(api, token, {**body, "existing": "retry"}).json["data"]
    assert (run["kind"], run["parameters"]) == (
        "backfill",
        {
            "assets": ["bitcoin"],
            "observed_from": "2025-01-01T00:00:00+00:00",
            "observed_to": "2025-07-01T00:00:00+00:00",
            "existing": "retry",
        },
    )
    assert ask(api, token, {**body, "existing": "retry"}).json["data"][0]["id"] == run["id"]
    other = ask(api, token, {**body, "observed_to": "2026-06-01T00:00:00Z"})
    assert other.json["data"][0]["id"] != run["id"], "of backfills a source may have several"


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        ({"assets": []}, "assets", "between 1 and 100"),
        ({"assets": ["nothing"]}, "assets", "lists no asset 'nothing'"),
        ({"observed_from": "2999-01-01T00:00:00Z"}, "observed_from", "before observed_to, or now"),
        ({"observed_to": "2025-01-01T00:00:00Z"}, "observed_from", "before observed_to"),
        ({"observed_from": "0001-01-01T00:00:00Z"}, "observed_from", "or later"),
        ({"existing": "always"}, "existing", "expected one of skip, retry, repeat"),
        ({"source": "csv_history"}, "source", "tells nothing of the past; those that do: coinpaprika, coingecko"),
        ({"kind": "live"}, "assets", "expected none with kind live"),
        ({"run": str(uuid.UUID(int=1))}, "run", "expected none with kind backfill"),
    ],
)
def test_a_backfill_that_cannot_be_is_refused(
    api: FlaskClient, token: dict[str, str], rows: Rows, change: dict[str, Any], name: str, said: str
) -> None:
    rows.listing("bitcoin", "coingecko")
    answer = ask(api, token, {**PAST, **change})
    assert answer.status_code == 422
    assert said in next(error["detail"] for error in answer.json["errors"] if error["name"] == name)


def test_a_backfill_names_its_assets_and_where_it_begins(api: FlaskClient, token: dict[str, str]) -> None:
    answer = ask(api, token, {"source": "coingecko", "kind": "backfill"})
    assert [error["name"] for error in answer.json["errors"]] == ["assets"]
