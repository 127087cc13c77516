"""Test that POST /runs refuses a body that does not fit its kind of run, and gives the reason."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.app.rows import Rows
from tests.app.runs.run_requests import BACKFILL, post_run


@pytest.mark.parametrize(
    ("body", "name", "detail"),
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
def test_an_invalid_body_is_a_422_with_the_reason(
    api: FlaskClient, token: dict[str, str], body: Any, name: str, detail: str
) -> None:
    response = post_run(api, token, body)
    assert (response.status_code, response.json["code"]) == (422, "invalid_body")
    assert any(error["name"] == name and detail in error["detail"] for error in response.json["errors"])


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"kind": "replay", "full_refresh": True}, "full_refresh"),
        ({"fetched_from": "2026-01-01T00:00:00Z"}, "fetched_from"),
        ({"kind": "live", "run": str(uuid.UUID(int=1))}, "run"),
        ({"kind": "replay", "run": "mine"}, "run"),
        ({"kind": "backfill", "full_refresh": True}, "full_refresh"),
        ({"kind": "replay", "dry_run": True}, "dry_run"),
        ({"dry_run": True}, "dry_run"),
        ({"max_retracted": 5}, "max_retracted"),
        ({"kind": "backfill", "max_retracted": 5}, "max_retracted"),
        ({"full_refresh": True, "max_retracted": -1}, "max_retracted"),
        ({"full_refresh": True, "dry_run": True}, "dry_run"),  # coingecko does not declare `replaces`
    ],
)
def test_the_error_names_a_parameter_of_another_kind_of_run(
    api: FlaskClient, token: dict[str, str], body: dict[str, Any], name: str
) -> None:
    response = api.post("/runs", json={"source": "coingecko", **body}, headers=token)
    assert response.status_code == 422
    assert [error["name"] for error in (response.json or {})["errors"]] == [name]


@pytest.mark.parametrize(
    ("change", "name", "detail"),
    [
        ({"assets": []}, "assets", "between 1 and 100"),
        ({"assets": ["nothing"]}, "assets", "lists no asset 'nothing'"),
        ({"observed_from": "2999-01-01T00:00:00Z"}, "observed_from", "in the past and before observed_to"),
        ({"observed_to": "2025-01-01T00:00:00Z"}, "observed_from", "before observed_to"),
        ({"observed_from": "0001-01-01T00:00:00Z"}, "observed_from", "or later"),
        ({"existing": "always"}, "existing", "expected one of skip, retry, repeat"),
        ({"source": "csv_history"}, "source", "cannot be backfilled; sources with a history: coinpaprika, coingecko"),
        ({"kind": "live"}, "assets", "expected none with kind live"),
        ({"run": str(uuid.UUID(int=1))}, "run", "expected none with kind backfill"),
    ],
)
def test_an_impossible_backfill_is_refused_with_the_reason(
    api: FlaskClient, token: dict[str, str], rows: Rows, change: dict[str, Any], name: str, detail: str
) -> None:
    rows.listing("bitcoin", "coingecko")
    response = post_run(api, token, {**BACKFILL, **change})
    assert response.status_code == 422
    assert detail in next(error["detail"] for error in response.json["errors"] if error["name"] == name)


def test_a_backfill_needs_its_assets_and_its_start(api: FlaskClient, token: dict[str, str]) -> None:
    response = post_run(api, token, {"source": "coingecko", "kind": "backfill"})
    assert [error["name"] for error in response.json["errors"]] == ["assets"]
