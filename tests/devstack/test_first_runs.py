"""Test the first runs: one line for each change of status, and one readable line for each result."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from pytest_httpserver import HTTPServer
from rich.console import Console

from devstack.first_runs import NoFirstRuns, describe_run, first_runs
from devstack.state_folder import free_port

NOTHING = dict.fromkeys(
    ("fetched", "inserted", "updated", "unchanged", "superseded", "deduplicated", "rejected", "left_out"), 0
)
TOKEN = "a-token"
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
NEWEST_RUN = {"source": "feed", "kind": "live", "limit": "1"}


def run(status: str, *, reason: str | None = None, error: str | None = None, **counters: int) -> dict[str, Any]:
    return {
        "id": "1",
        "source": "feed",
        "status": status,
        "waiting_reason": reason,
        "error": {"detail": error} if error else None,
        "counters": {**NOTHING, **counters},
    }


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (run("queued"), "queued"),
        (run("queued", fetched=250, inserted=250), "queued: 250 items, 250 new"),
        (run("running"), "running: 0 items"),
        (run("succeeded", fetched=1, inserted=1), "succeeded: 1 item, 1 new"),
        (run("partial", fetched=5309, inserted=5304, rejected=5), "partial: 5,309 items, 5,304 new, 5 rejected"),
        (
            run("succeeded", fetched=6, updated=1, unchanged=3, deduplicated=2),
            "succeeded: 6 items, 1 changed, 3 unchanged, 2 duplicate",
        ),
        (run("waiting", reason="upstream_unavailable: 503"), "waiting: 0 items — upstream_unavailable: 503"),
        (run("failed", error="No file matches."), "failed: 0 items — No file matches."),
    ],
)
def test_a_run_is_described_in_one_line(state: dict[str, Any], line: str) -> None:
    assert describe_run(state) == line


def test_each_source_that_is_not_paused_is_run_and_followed_until_it_ends(httpserver: HTTPServer) -> None:
    sources = [
        {"name": "feed", "paused": False},
        {"name": "resting", "paused": True, "paused_reason": "maintenance"},
        {"name": "desk", "paused": False, "status": "broken", "detail": "desk.py:5: Rate is wrong"},
    ]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    httpserver.expect_ordered_request("/sources").respond_with_json({"data": sources})
    earlier = run("succeeded") | {"id": "0", "requested_at": (START - timedelta(seconds=1)).isoformat()}
    httpserver.expect_ordered_request("/runs", query_string=NEWEST_RUN).respond_with_json({"data": [earlier]})
    httpserver.expect_ordered_request(
        "/runs", method="POST", headers=headers, json={"source": "feed"}
    ).respond_with_json({"data": [run("queued")]}, status=202)
    for state in (run("running"), run("running", fetched=1, inserted=1), run("succeeded", fetched=1, inserted=1)):
        httpserver.expect_ordered_request("/runs/1").respond_with_json(state)
    screen = io.StringIO()
    ended, broken = first_runs(httpserver.url_for("").rstrip("/"), TOKEN, START, Console(file=screen))
    assert ended["status"] == "succeeded"
    assert describe_run(broken) == "broken: desk.py:5: Rate is wrong"
    assert [re.sub(r"\s+", " ", line).strip() for line in screen.getvalue().splitlines()] == [
        "resting is paused: maintenance",
        "feed running: 0 items",
        "desk broken: desk.py:5: Rate is wrong",
        "feed succeeded: 1 item, 1 new",
    ]


def test_a_run_that_was_requested_since_the_start_is_shown_and_no_other_is_requested(httpserver: HTTPServer) -> None:
    scheduled = run("succeeded", fetched=1, inserted=1) | {"requested_at": START.isoformat().replace("+00:00", "Z")}
    httpserver.expect_request("/sources").respond_with_json({"data": [{"name": "feed", "paused": False}]})
    httpserver.expect_request("/runs", method="GET", query_string=NEWEST_RUN).respond_with_json({"data": [scheduled]})
    assert first_runs(httpserver.url_for("").rstrip("/"), TOKEN, START, Console(file=io.StringIO())) == [scheduled]
    httpserver.check()


def test_an_unfinished_run_of_an_earlier_start_is_followed(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/sources").respond_with_json({"data": [{"name": "feed", "paused": False}]})
    httpserver.expect_request("/runs", method="GET").respond_with_json({"data": []})
    httpserver.expect_request("/runs", method="POST").respond_with_json({}, status=requests.codes.conflict)
    httpserver.expect_request("/sources/feed").respond_with_json({"live_run": {"run": "1"}})
    httpserver.expect_request("/runs/1").respond_with_json(run("partial", fetched=2, inserted=1, rejected=1))
    [ended] = first_runs(httpserver.url_for("").rstrip("/"), TOKEN, START, Console(file=io.StringIO()))
    assert (ended["id"], ended["status"]) == ("1", "partial")


def test_the_error_for_a_refused_run_names_the_source_and_the_response(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/sources").respond_with_json({"data": [{"name": "feed", "paused": False}]})
    httpserver.expect_request("/runs", method="GET").respond_with_json({"data": []})
    httpserver.expect_request("/runs", method="POST").respond_with_data("wrong token", status=401)
    with pytest.raises(NoFirstRuns, match="refused to run feed: POST /runs returned 401: wrong token"):
        first_runs(httpserver.url_for("").rstrip("/"), TOKEN, START, Console(file=io.StringIO()))


def test_an_unreachable_api_is_reported() -> None:
    with pytest.raises(NoFirstRuns, match="A request to the API failed"):
        first_runs(f"http://127.0.0.1:{free_port()}", TOKEN, START, Console(file=io.StringIO()))
