"""Test that records that wait in files are listed with their file and line, in health and in their run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient

from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows

FIELDS = {"begin": 0, "offset": 30, "tail": "waiting"}


def waiting(api: FlaskClient, run: UUID) -> tuple[Any, Any]:
    """Return the waiting records in health, and in the run."""
    health = get(api, "/health")["checks"]["sources"]["csv_history"]["waiting_records"]
    return health, get(api, f"/runs/{run}")["waiting_records"]


def test_the_last_run_of_a_source_names_the_records_that_wait(api: FlaskClient, rows: Rows, broker: Any) -> None:
    earlier = rows.run("csv_history", requested_at=NOON - timedelta(hours=1))
    last = rows.run("csv_history")
    rows.checkpoint("csv_history", "deleted.csv", done_by=earlier, cursor={**FIELDS, "line": 9})
    rows.checkpoint("csv_history", "cut.csv//1000", done_by=last, cursor={**FIELDS, "line": 7})
    rows.checkpoint("csv_history", "whole.csv", done_by=last, cursor={**FIELDS, "line": 7, "tail": None})
    cut = [{"file": "cut.csv", "line": 7}]
    assert waiting(api, last) == (cut, cut)
    assert waiting(api, earlier) == (cut, [{"file": "deleted.csv", "line": 9}])


def test_at_most_20_waiting_records_are_listed(api: FlaskClient, rows: Rows, broker: Any) -> None:
    run = rows.run("csv_history")
    for number in range(21):
        rows.checkpoint("csv_history", f"{number:02}.csv", done_by=run, cursor={**FIELDS, "line": number})
    in_health, in_run = waiting(api, run)
    assert [record["line"] for record in in_health] == [*range(20)] == [record["line"] for record in in_run]
