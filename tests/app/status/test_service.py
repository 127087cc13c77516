"""Health, metrics, who may, and what every answer has; also when the database is gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text

from app.web.problems import Code
from settings import Settings
from tests.app.conftest import TOKEN, serve
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows

PASSWORD = "a-password-nobody-may-see"


@pytest.fixture
def lost(api_settings: Settings) -> Iterator[FlaskClient]:
    """The API without its database."""
    for app in serve(replace(api_settings, database_url=f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/nowhere")):
        yield app.test_client()


@pytest.fixture
def closed(api_settings: Settings) -> Iterator[FlaskClient]:
    """The API where reading needs the token too."""
    for app in serve(replace(api_settings, reads_need_token=True)):
        yield app.test_client()


@pytest.fixture
def tokenless(api_settings: Settings) -> Iterator[FlaskClient]:
    """The API of a service that was given no token."""
    for app in serve(replace(api_settings, api_token=None)):
        yield app.test_client()


def test_all_is_well_where_every_part_was_heard_of(
    api: FlaskClient, rows: Rows, broker: Any, api_settings: Settings
) -> None:
    for part in ("worker", "control", "beat"):
        rows.heartbeat(part, datetime.now(UTC))
    rows.run()
    health = get(api, "/health")
    assert health["status"] == "ok", health
    assert health["checks"]["sources"]["coingecko"]["last_run_status"] == "succeeded"


def test_a_silent_worker_a_failed_source_and_an_old_queued_run_degrade(api: FlaskClient, rows: Rows) -> None:
    rows.heartbeat("worker", NOON)
    rows.run(status="failed", error_code="upstream_refused")
    rows.run("coinpaprika", "queued")
    health = get(api, "/health")
    assert health["status"] == "degraded"
    for name in ("worker", "control", "beat"):
        assert health["checks"][name]["status"] == "down"
    assert health["checks"]["oldest_queued_run"]["status"] == "degraded"
    assert health["checks"]["sources"]["coingecko"]["status"] == "degraded"


def test_a_source_whose_host_is_left_alone_degrades_and_says_until_when(api: FlaskClient, rows: Rows) -> None:
    now = datetime.now(UTC)
    rows.breaker("coingecko", failures=5, opened_at=now)
    rows.breaker("coinpaprika", failures=6, opened_at=now - timedelta(hours=1))
    rows.run()
    checks = get(api, "/health")["checks"]["sources"]
    assert (checks["coingecko"]["status"], checks["coingecko"]["last_run_status"]) == ("degraded", "succeeded")
    assert re.fullmatch(
        r"5 requests to its host failed in a row; no more are made until 20\d\d-\d\d-\d\dT[\d:]{8}Z\.",
        checks["coingecko"]["detail"],
    )
    assert checks["coinpaprika"]["status"] == "degraded"
    assert checks["coinpaprika"]["detail"].startswith("6 requests to its host failed in a row; ")
    assert checks["csv_history"]["status"] == "unknown"


def test_a_page_committed_of_late_shows_that_a_worker_lives(api: FlaskClient, rows: Rows) -> None:
    rows.page(rows.run(), committed_at=datetime.now(UTC))
    assert get(api, "/health")["checks"]["worker"]["status"] == "ok"


def test_a_request_after_postgres_was_restarted_is_answered(api: FlaskClient, engine: Engine) -> None:
    get(api, "/data")
    ours = "FROM pg_stat_activity WHERE application_name = 'kasparro-web' AND datname = current_database()"
    with engine.connect() as connection:
        assert all(connection.scalars(text(f"SELECT pg_terminate_backend(pid, 1000) {ours}")).all() or [False])
    get(api, "/data")


def test_without_a_database_health_is_down_but_the_process_lives(lost: FlaskClient) -> None:
    answer = lost.get("/health")
    assert answer.json is not None
    assert (answer.status_code, answer.json["status"]) == (503, "down")
    assert answer.json["checks"]["database"]["status"] == "down"
    assert answer.json["api_latency_seconds"] < 3000
    assert get(lost, "/health/live")["status"] == "ok"


@pytest.mark.parametrize("path", ["/data", "/data/latest", "/assets", "/sources", "/runs", "/stats"])
def test_without_a_database_reading_is_a_503_to_be_repeated(lost: FlaskClient, path: str) -> None:
    answer = lost.get(path)
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert PASSWORD not in answer.text


def test_a_query_that_takes_too_long_is_a_503_that_says_to_narrow_it(
    api_settings: Settings, engine: Engine, rows: Rows
) -> None:
    with engine.connect() as connection:
        connection.execute(text("LOCK TABLE quotes IN ACCESS EXCLUSIVE MODE"))
        for app in serve(replace(api_settings, statement_timeout=0.3)):
            answer = app.test_client().get("/data")
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (503, "query_timeout")
    assert "Narrow" in answer.json["hint"]


def test_a_database_without_tables_is_a_503_that_says_to_migrate(api: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE quotes"))
    answer = api.get("/data")
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")
    assert "alembic upgrade head" in answer.json["hint"]


def test_what_nobody_foresaw_is_a_500_without_its_trace(app: Flask) -> None:
    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError(f"cannot log in with {PASSWORD}")

    answer = app.test_client().get("/broken")
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert answer.json["request_id"] in answer.json["detail"]
    assert PASSWORD not in answer.text
    assert "Traceback" not in answer.text


WRITES = (
    "/runs",
    "/runs/00000000-0000-0000-0000-000000000001/cancel",
    "/rejects/replay",
    "/sources/coingecko/drift/1/accept",
    "/sources/coingecko/pause",
    "/sources/coingecko/resume",
    "/assets/bitcoin/merge",
    "/assets/bitcoin/split",
    "/assets/bitcoin/pin",
    "/decisions/00000000-0000-0000-0000-000000000001/undo",
)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "token_required"),
        ("Basic eDp5", "token_required"),
        ("Bearer ", "token_required"),
        ("Bearer wrong", "token_invalid"),
        (f"Bearer {TOKEN}x", "token_invalid"),
        ("Bearer \xe9", "token_invalid"),
    ],
)
def test_no_write_without_the_token(api: FlaskClient, header: str | None, code: str) -> None:
    for path in WRITES:
        answer = api.post(path, headers={"Authorization": header} if header else {})
        assert answer.json is not None
        assert (answer.status_code, answer.json["code"]) == (401, code)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_writes_that_are_tested_are_all_there_are(app: Flask) -> None:
    rules = [
        rule for rule in app.url_map.iter_rules() if rule.methods and not rule.methods <= {"GET", "HEAD", "OPTIONS"}
    ]
    assert len(rules) == len(WRITES)


def test_a_service_without_a_token_writes_for_nobody(tokenless: FlaskClient, token: dict[str, str]) -> None:
    for headers in ({}, token, {"Authorization": "Bearer None"}):
        answer = tokenless.post("/runs", json={"all": True}, headers=headers)
        assert answer.json is not None
        assert answer.status_code == 401
        assert "API_TOKEN" in answer.json["hint"]


def test_reads_need_the_token_too_where_it_is_set_so(closed: FlaskClient, token: dict[str, str]) -> None:
    for path in ("/data", "/health", "/metrics", "/stats"):
        assert closed.get(path).status_code == 401
        assert closed.get(path, headers=token).status_code == 200
    for path in ("/health/live", "/docs", "/openapi.json"):
        assert closed.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/data", "/nothing", "/health", "/data?limit=0"])
def test_every_answer_carries_the_request_id_and_its_time(api: FlaskClient, path: str) -> None:
    answer = api.get(path, headers={"X-Request-ID": 'mine "quoted"'})
    assert answer.json is not None
    assert answer.json["request_id"] == answer.headers["X-Request-ID"] == 'mine "quoted"'
    assert answer.json["api_latency_seconds"] > 0


@pytest.mark.parametrize("sent", ["x" * 129, "tab\there", "\xe9"])
def test_a_request_id_that_is_not_printable_ascii_is_replaced(api: FlaskClient, sent: str) -> None:
    answer = api.get("/health/live", headers={"X-Request-ID": sent})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_a_path_that_is_not_there_is_a_404_with_the_nearest(api: FlaskClient) -> None:
    answer = api.get("/dtaa")
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert "'/data'" in answer.json["detail"]


def test_a_method_that_is_not_taken_is_a_405_that_says_which_is(api: FlaskClient, token: dict[str, str]) -> None:
    for headers in ({}, token):
        answer = api.delete("/data", headers=headers)
        assert answer.json is not None
        assert (answer.status_code, answer.json["code"]) == (405, "method_not_allowed")
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/health", "/stats", "/sources", "/sources/coingecko", "/metrics"])
def test_a_query_is_not_ignored_where_none_is_taken(api: FlaskClient, path: str) -> None:
    answer = api.get(f"{path}?verbose=1")
    assert answer.json is not None
    assert (answer.status_code, answer.json["errors"][0]["name"]) == (422, "verbose")


def test_every_code_of_a_problem_is_documented(api: FlaskClient) -> None:
    document = get(api, "/openapi.json")
    for code in Code:
        explained = get(api, f"/problems/{code.slug}")
        assert (explained["status"], explained["title"], explained["about"]) == (code.status, code.title, code.about)
        assert f"| `{code.slug}` | {code.status} |" in document["info"]["description"]
        assert code.slug in document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]


def test_metrics_tell_the_databases_truth_and_the_request_times(api: FlaskClient, rows: Rows) -> None:
    run = rows.run(finished_at=datetime.now(UTC) - timedelta(hours=1))
    rows.page(run, inserted=3, rejected=1)
    rows.reject(rows.page(run, 1, body=b"x", rejected=1))
    rows.run(status="queued", requested_at=datetime.now(UTC) - timedelta(minutes=1), started_at=None)
    rows.heartbeat("beat", datetime.now(UTC) - timedelta(seconds=30))
    rows.breaker("coinpaprika", failures=5, opened_at=NOON)
    rows.dropped("csv_history", quotes=7, bodies=2)
    api.get("/runs/not-a-run-at-all")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(api.get("/metrics").text)
        for sample in family.samples
    }
    assert found["kasparro_database_up",] == 1
    assert found["kasparro_runs", "coingecko", "succeeded"] == 1
    assert found["kasparro_rows_total", "coingecko", "inserted"] == 3
    assert found["kasparro_dropped_total", "csv_history", "quotes"] == 7
    assert found["kasparro_dropped_total", "bodies", "csv_history"] == 2
    assert found["kasparro_breaker_open", "coingecko"] == 0
    assert found["kasparro_breaker_open", "coinpaprika"] == 1
    assert 3600 <= found["kasparro_source_lag_seconds", "coingecko"] < 3700
    assert 60 <= found["kasparro_oldest_queued_run_seconds",] < 160
    assert 30 <= found["kasparro_heartbeat_age_seconds", "beat"] < 130
    assert found["kasparro_http_request_seconds_count", "/runs/<run>", "404", "GET"] >= 1
    assert not any("not-a-run-at-all" in part for key in found for part in key)


def test_metrics_go_on_without_a_database(lost: FlaskClient) -> None:
    answer = lost.get("/metrics")
    assert answer.status_code == 200
    assert "kasparro_database_up 0.0" in answer.text
