"""Test that a request is stored and returns its runs, and that a repeated request returns the same runs."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, func, select

from sources.registry import SOURCES
from store.tables import RunRow
from tasks.runs.claims import claim_run
from tests.app.quotes.test_data import get
from tests.app.rows import Rows
from tests.app.runs.run_requests import post_run


def test_a_requested_run_is_stored_and_its_location_leads_to_it(api: FlaskClient, token: dict[str, str]) -> None:
    response = post_run(api, token, {"source": "coingecko"}, **{"X-Request-ID": "mine"})
    assert response.status_code == 202
    [run] = response.json["data"]
    assert (run["source"], run["kind"], run["status"], run["parameters"]) == ("coingecko", "live", "queued", {})
    assert response.headers["Location"] == f"/runs/{run['id']}"
    stored = get(api, response.headers["Location"])
    assert {**{name: stored[name] for name in run if name != "joined"}, "joined": False} == run


def test_an_unfinished_run_is_returned_for_the_same_parameters_and_conflicts_with_others(
    api: FlaskClient, token: dict[str, str], engine: Engine
) -> None:
    first = post_run(api, token, {"source": "coingecko"}).json["data"][0]["id"]
    assert post_run(api, token, {"sources": ["coingecko", "coingecko"]}).json["data"][0]["id"] == first
    conflict = post_run(api, token, {"sources": ["coinpaprika", "coingecko"], "full_refresh": True})
    assert (conflict.status_code, conflict.json["code"]) == (409, "run_conflict")
    assert first in conflict.json["detail"]
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(RunRow)) == 1


def test_an_idempotency_key_returns_the_same_runs_and_refuses_another_body(
    api: FlaskClient, token: dict[str, str]
) -> None:
    first = post_run(api, token, {"source": "coingecko"}, **{"Idempotency-Key": "k"})
    again = post_run(api, token, {"source": "coingecko"}, **{"Idempotency-Key": "k"})
    assert again.json["data"][0]["id"] == first.json["data"][0]["id"]
    other = post_run(api, token, {"source": "coinpaprika"}, **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")
    long = post_run(api, token, {"source": "coingecko"}, **{"Idempotency-Key": "k" * 256})
    assert (long.status_code, long.json["errors"][0]["name"]) == (422, "Idempotency-Key")


def test_a_run_records_the_request_id_and_a_valid_traceparent(
    api: FlaskClient, token: dict[str, str], engine: Engine
) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    for source, header in (("coingecko", traceparent), ("coinpaprika", "00-x")):
        post_run(api, token, {"source": source}, **{"X-Request-ID": f"mine-{source}", "traceparent": header})
    with engine.connect() as connection:
        rows = connection.execute(select(RunRow.request_id, RunRow.traceparent).order_by(RunRow.source)).all()
    assert rows == [("mine-coingecko", traceparent), ("mine-coinpaprika", None)]


def test_a_request_after_the_current_run_queues_one_more_run(
    api: FlaskClient, token: dict[str, str], engine: Engine
) -> None:
    body = {"source": "coingecko", "after": "current"}
    [current] = post_run(api, token, body).json["data"]
    assert (current["joined"], current["after_run"]) == (False, None)
    assert claim_run(engine, UUID(current["id"]))
    [joined] = post_run(api, token, {"source": "coingecko"}).json["data"]
    assert (joined["id"], joined["joined"]) == (current["id"], True)
    [queued] = post_run(api, token, body).json["data"]
    assert (queued["status"], queued["joined"], queued["after_run"]) == ("queued", False, current["id"])
    [again] = post_run(api, token, body).json["data"]
    assert (again["id"], again["joined"]) == (queued["id"], True)
    replay = post_run(api, token, {**body, "kind": "replay"})
    assert (replay.status_code, replay.json["errors"][0]["name"]) == (422, "after")


@pytest.fixture
def replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare that the files of csv_history are the whole truth."""
    source = replace(SOURCES["csv_history"], replaces=True)
    monkeypatch.setitem(SOURCES, source.name, source)  # type: ignore[arg-type]  # a dict, typed as a Mapping


@pytest.mark.usefixtures("replaces")
def test_a_dry_run_and_a_limit_are_parameters_of_a_full_refresh(api: FlaskClient, token: dict[str, str]) -> None:
    parameters = {"full_refresh": True, "dry_run": True, "max_retracted": 7}
    [run] = post_run(api, token, {"sources": ["csv_history"], **parameters}).json["data"]
    assert (run["parameters"], run["retraction"]) == (parameters, None)
    conflict = post_run(api, token, {"source": "csv_history", "full_refresh": True})
    assert (conflict.status_code, conflict.json["code"]) == (409, "run_conflict")


@pytest.mark.usefixtures("replaces")
def test_a_source_that_replaces_is_not_replayed(api: FlaskClient, token: dict[str, str], rows: Rows) -> None:
    response = post_run(api, token, {"sources": ["coingecko", "csv_history"], "kind": "replay"})
    assert (response.status_code, response.json["code"]) == (422, "invalid_body")
    assert "csv_history declares `replaces`" in response.json["detail"]
    for source in ("csv_history", "coingecko"):
        rows.reject(rows.page(rows.run(source), source=source, rejected=1), source=source)
    assert api.post("/rejects/replay", json={"source": "csv_history"}, headers=token).status_code == 422
    runs = (api.post("/rejects/replay", json={}, headers=token).json or {})["data"]
    assert [run["source"] for run in runs] == ["coingecko"]
