"""Test that a run shows its counters, error and duration, and that an unknown run is a 404."""

from __future__ import annotations

import uuid

import pytest
from flask.testing import FlaskClient

from tests.app.quotes.test_data import get
from tests.app.rows import Rows


def test_a_run_shows_its_counters_error_and_duration(api: FlaskClient, rows: Rows) -> None:
    run = rows.run(status="failed", error_code="upstream_refused", error_detail="402: the quota is used up")
    rows.page(run, 0, inserted=3, rejected=1)
    rows.page(run, 1, updated=2, unchanged=4, superseded=3, deduplicated=1, blank=2)
    shown = get(api, f"/runs/{run}")
    assert shown["counters"] == {
        "pages": 2,
        "fetched": 14,
        "inserted": 3,
        "updated": 2,
        "unchanged": 4,
        "superseded": 3,
        "deduplicated": 1,
        "rejected": 1,
        "left_out": 0,
        "blank": 2,
        "conflicting": 0,
        "bytes": 4,
    }
    assert shown["error"] == {"code": "upstream_refused", "detail": "402: the quota is used up"}
    assert shown["duration_seconds"] == 2.0
    assert shown["finished_at"] == "2026-01-31T12:00:03Z"


def test_a_run_shows_its_first_conflict(api: FlaskClient, rows: Rows) -> None:
    run = rows.run()
    assert get(api, f"/runs/{run}")["first_conflict"] is None
    at = "2026-01-31T11:00:00+00:00"
    values = {"price": ["61500", "62000"], "rank": [None, "1"]}
    conflict = {"source_asset_id": "btc", "quote_currency": "USD", "observed_at": at, "values": values}
    rows.page(run, 0, deduplicated=2, conflicting=2, recorded={"conflict": conflict})
    shown = get(api, f"/runs/{run}")
    assert shown["counters"]["conflicting"] == 2
    assert shown["first_conflict"] == {**conflict, "observed_at": "2026-01-31T11:00:00Z"}


def test_a_run_shows_its_retraction(api: FlaskClient, rows: Rows) -> None:
    sample = {"source_asset_id": "btc", "quote_currency": "USD", "observed_at": "2026-01-31T12:00:00+00:00"}
    sample |= {"price": "1", "run": str(uuid.UUID(int=1)), "partition": "a.csv", "page": 0, "file": "a.csv", "line": 7}
    counts = {"compared": 9, "missing": 2, "deleted": 0}
    progress = {"token": "x", "phase": "done", "position": [1, "infinity"], "first": [], "samples": [sample]}
    run = rows.run(retraction={**progress, **counts})
    samples = [{**sample, "observed_at": "2026-01-31T12:00:00Z"}]
    assert get(api, f"/runs/{run}")["retraction"] == {**counts, "samples": samples}
    assert get(api, f"/runs/{rows.run()}")["retraction"] is None


@pytest.mark.parametrize("path", ["/runs/7", f"/runs/{uuid.UUID(int=7)}", "/runs/%ff/rejects"])
def test_an_unknown_run_is_a_404(api: FlaskClient, path: str) -> None:
    response = api.get(path)
    assert response.json is not None
    assert (response.status_code, response.json["code"]) == (404, "unknown_run")
