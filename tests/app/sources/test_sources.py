"""Test that /sources shows each source's schedule, limits and progress, and pauses and resumes a source."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient

from sources.contract import Retention
from sources.registry import SOURCES
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows


def test_every_registered_source_is_listed(api: FlaskClient) -> None:
    assert [source["name"] for source in get(api, "/sources")["data"]] == list(SOURCES)


def test_the_next_run_is_at_the_next_slot(api: FlaskClient) -> None:
    source = get(api, "/sources/coingecko")
    next_run_at = datetime.fromisoformat(source["next_run_at"])
    assert next_run_at.timestamp() % source["every_seconds"] == 0
    assert timedelta(0) < next_run_at - datetime.now(UTC) <= timedelta(seconds=source["every_seconds"])
    assert source["catch_up"] == "latest"


def test_a_source_shows_its_checkpoints_leases_budget_and_runs(api: FlaskClient, rows: Rows) -> None:
    succeeded = rows.run(requested_at=NOON)
    rows.run(requested_at=NOON + timedelta(hours=1), status="failed", error_code="x", error_detail="y" * 900)
    live = rows.run(requested_at=NOON + timedelta(hours=2), status="running")
    soon = datetime.now(UTC) + timedelta(minutes=1)
    rows.checkpoint(cursor={"page": 3}, version=7, lease_run=live, lease_expires=soon, updated_at=NOON)
    rows.checkpoint(partition="old", lease_run=succeeded, lease_expires=NOON, updated_at=NOON)
    source = get(api, "/sources/coingecko")
    whole, old = source["checkpoints"]
    assert (whole["partition"], whole["cursor"], whole["version"]) == ("", {"page": 3}, 7)
    assert whole["lease"]["run"] == str(live)
    assert old["lease"] is None
    assert source["last_success"] == {
        "run": str(succeeded),
        "status": "succeeded",
        "finished_at": "2026-01-31T12:00:03Z",
        "code": None,
        "detail": None,
    }
    assert len(source["last_failure"]["detail"]) == 500
    assert source["live_run"]["run"] == str(live)
    assert source["rate"]["used_this_month"] == 0


def test_a_source_shows_the_state_of_its_circuit_breaker(api: FlaskClient, rows: Rows) -> None:
    now = datetime.now(UTC)
    rows.breaker("coingecko", failures=5, opened_at=now)
    rows.breaker("coinpaprika", failures=6, opened_at=now - timedelta(hours=1))
    breaker = get(api, "/sources/coingecko")["breaker"]
    assert (breaker["state"], breaker["failures"]) == ("open", 5)
    assert datetime.fromisoformat(breaker["until"]) == now + timedelta(seconds=60)
    assert get(api, "/sources/coinpaprika")["breaker"] == {"state": "half_open", "failures": 6, "until": None}
    assert get(api, "/sources/csv_history")["breaker"] == {"state": "closed", "failures": 0, "until": None}


def test_during_a_trial_request_the_breaker_shows_when_the_next_request_is_allowed(
    api: FlaskClient, rows: Rows
) -> None:
    now = datetime.now(UTC)
    rows.breaker(failures=5, opened_at=now - timedelta(hours=1), probe_until=now + timedelta(seconds=40))
    breaker = get(api, "/sources/coingecko")["breaker"]
    assert breaker["state"] == "half_open"
    assert datetime.fromisoformat(breaker["until"]) == now + timedelta(seconds=40)


def test_a_source_shows_its_retention_and_the_numbers_of_deleted_rows(
    api: FlaskClient, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = replace(SOURCES["coingecko"], retention=Retention(quotes=timedelta(days=30)))
    monkeypatch.setitem(SOURCES, "coingecko", source)  # type: ignore[arg-type]  # a dict, though typed as a Mapping
    rows.deleted(quotes=12, bodies=3)
    assert get(api, "/sources/coingecko")["retention"] == {
        "quotes_seconds": 2592000,
        "bodies_seconds": None,
        "quotes_deleted": 12,
        "bodies_deleted": 3,
    }
    unlimited = {"quotes_seconds": None, "bodies_seconds": None, "quotes_deleted": 0, "bodies_deleted": 0}
    assert get(api, "/sources/coinpaprika")["retention"] == unlimited


def test_a_source_is_paused_with_a_reason_until_it_is_resumed(api: FlaskClient, token: dict[str, str]) -> None:
    paused = api.post("/sources/coingecko/pause", json={"reason": "The upstream is migrating."}, headers=token)
    assert paused.json is not None
    assert (paused.json["paused"], paused.json["paused_reason"], paused.json["next_run_at"]) == (
        True,
        "The upstream is migrating.",
        None,
    )
    later = datetime.now(UTC) + timedelta(days=2)
    until = api.post(
        "/sources/coingecko/pause",
        json={"reason": "The upstream is migrating.", "until": later.isoformat()},
        headers=token,
    )
    assert until.json is not None
    assert datetime.fromisoformat(until.json["next_run_at"]) > later
    resumed = api.post("/sources/coingecko/resume", headers=token)
    assert resumed.json is not None
    assert (resumed.json["paused"], resumed.json["paused_reason"]) == (False, None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": "x\0"},
        {"reason": "x", "until": "soon"},
        {"reason": "x", "until": "2020-01-01T00:00:00Z"},
        {"reason": "x", "until": "9999-12-31T23:59:59Z"},
        {"why": "x"},
    ],
)
def test_a_pause_without_a_valid_reason_or_end_is_refused(
    api: FlaskClient, token: dict[str, str], body: dict[str, str]
) -> None:
    assert api.post("/sources/coingecko/pause", json=body, headers=token).status_code == 422


@pytest.mark.parametrize(
    ("path", "code", "detail"),
    [
        ("/sources/coingeko", "unknown_source", "did you mean 'coingecko'?"),
        ("/sources/%00", "not_found", "There is nothing"),
    ],
)
def test_an_unknown_name_is_a_404_that_suggests_the_nearest_name(
    api: FlaskClient, path: str, code: str, detail: str
) -> None:
    response = api.get(path)
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (404, code)
    assert detail in response.json["detail"]
