"""Test that a paused source starts no slice, and that a resumed source continues at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from redis import Redis
from structlog.testing import capture_logs
from werkzeug import Request, Response

from sources.contract import Source
from tasks.runs.claims import extend_pause
from tasks.runs.pausing import lift_outdated_pause, pause_source, resume_source
from tests.tasks.conftest import Bench
from tests.tasks.feed import feed_source
from tests.upstreams import canned, item


def test_resuming_a_source_makes_its_waiting_run_due(bench: Bench, broker: Redis) -> None:
    source = canned([item()])
    pause_source(bench.engine, "canned", None, "maintenance")
    run = bench.ingest(source)
    assert run["status"] == "waiting"
    assert run["waiting_reason"].startswith("the source is paused: maintenance; next attempt at 2")
    broker.flushall()
    resume_source(bench.engine, "canned")
    assert broker.llen("ingest") == 1
    assert bench.slice(run["id"])["status"] == "succeeded"


def test_a_second_pause_replaces_the_first_pause(bench: Bench) -> None:
    end = datetime(2099, 1, 1, tzinfo=UTC)
    for until, reason in ((None, "maintenance"), (end, "a shorter one")):
        pause_source(bench.engine, "canned", until, reason)
    [pause] = bench.rows("SELECT paused_until, paused_reason FROM sources")
    assert dict(pause) == {"paused_until": end, "paused_reason": "a shorter one"}


def test_the_end_of_a_pause_is_recorded(bench: Bench) -> None:
    pause_source(bench.engine, "canned", None, "maintenance")
    resume_source(bench.engine, "canned")
    [pause] = bench.rows("SELECT paused_reason, paused_until <= clock_timestamp() AS is_over FROM sources")
    assert dict(pause) == {"paused_reason": None, "is_over": True}


# Pauses whose cause was corrected


@pytest.fixture
def refusing(bench: Bench, upstream: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Return a source whose upstream accepts only the key "new", and which an earlier key has paused."""

    def respond(request: Request) -> Response:
        is_allowed = request.headers.get("X-Key") == "new-key-of-the-feed"
        return Response("[]") if is_allowed else Response('{"error": "unknown key"}', 401)

    upstream.clear()
    upstream.expect_request("/prices").respond_with_handler(respond)
    monkeypatch.setenv("FEED_API_KEY", "old-key-of-the-feed")
    source = feed_source(upstream.url_for(""))
    assert bench.ingest(source)["error_code"] == "key_refused"
    return source


def paused_reason(bench: Bench) -> Any:
    return bench.one("SELECT paused_reason FROM sources WHERE name = 'feed'")


@pytest.mark.usefixtures("refusing")
def test_a_pause_says_why_and_what_ends_it(bench: Bench) -> None:
    assert paused_reason(bench) == (
        'key_refused: feed: returned 401 for GET /prices; it says “{"error": "unknown key"}”; to end the pause, '
        "change FEED_API_KEY, FEED_PLAN, FEED_URL or USER_AGENT_CONTACT and restart the workers, or "
        "POST /sources/feed/resume"
    )
    assert b"old-key" not in bytes(bench.one("SELECT paused_configuration FROM sources WHERE name = 'feed'"))


def test_another_key_lifts_the_pause_in_the_next_slice(
    bench: Bench, refusing: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench.ingest(refusing)
    assert (run["status"], run["waiting_reason"][:20]) == ("waiting", "the source is paused")
    monkeypatch.setenv("FEED_API_KEY", "new-key-of-the-feed")
    bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
    with capture_logs() as logs:
        assert bench.slice(run["id"])["status"] == "succeeded"
    [lifted] = [log for log in logs if log["event"] == "pause_lifted"]
    assert (lifted["source"], lifted["reason"][:12]) == ("feed", "key_refused:")
    assert paused_reason(bench) is None


def test_lifting_a_pause_makes_its_waiting_run_due(
    bench: Bench, broker: Redis, refusing: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench.ingest(refusing)["id"]
    broker.flushall()
    assert not lift_outdated_pause(bench.engine, refusing)
    monkeypatch.setenv("FEED_API_KEY", "new-key-of-the-feed")
    assert lift_outdated_pause(bench.engine, refusing)
    assert broker.llen("ingest") == 1
    assert bench.slice(run)["status"] == "succeeded"
    assert not lift_outdated_pause(bench.engine, refusing)


def test_another_key_that_is_refused_too_pauses_the_source_again(
    bench: Bench, refusing: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEED_API_KEY", "third-key-of-the-feed")
    assert bench.ingest(refusing)["error_code"] == "key_refused"
    assert paused_reason(bench).startswith("key_refused")
    assert bench.ingest(refusing)["status"] == "waiting"


@pytest.mark.parametrize("cause", ["an operator", "an older worker", "a later cause"])
def test_a_pause_with_another_cause_is_not_lifted(
    bench: Bench, refusing: Source, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    if cause == "an operator":
        pause_source(bench.engine, "feed", None, "key_refused: says the operator")
    elif cause == "an older worker":
        bench.rows("UPDATE sources SET paused_reason = 'disk_full: x', paused_until = NULL WHERE name = 'feed'")
    else:
        with bench.engine.begin() as connection:
            extend_pause(connection, "feed", timedelta(days=2), "poisoned: x")
    monkeypatch.setenv("FEED_API_KEY", "new-key-of-the-feed")
    assert not lift_outdated_pause(bench.engine, refusing)
    assert bench.ingest(refusing)["status"] == "waiting"
