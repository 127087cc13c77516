"""Problems: their members and texts; and what `/health` reports about paused sources."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from app.web.problems import Code, Problem, invalid_parameter, quoted, suggestion
from tasks.runs.requests import pause_source, resume_source
from tests.app.quotes.test_data import get
from tests.app.rows import Rows

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


@pytest.fixture
def healthy_api(api: FlaskClient, rows: Rows, broker: Any) -> FlaskClient:
    """The API of a service in which every part works."""
    for part in ("worker", "control", "beat"):
        rows.heartbeat(part, datetime.now(UTC))
    rows.run()
    assert get(api, "/health")["status"] == "ok"
    return api


def test_a_paused_source_degrades_whoever_paused_it_and_until_it_is_resumed(
    healthy_api: FlaskClient, engine: Engine
) -> None:
    pause_source(engine, "coingecko", SOON, "the contract is being signed")
    pause_source(engine, "coinpaprika", None, "payment_required: the quota is used up")
    health = get(healthy_api, "/health")
    paused = health["checks"]["sources"]
    assert (health["status"], health["checks"]["database"]) == ("degraded", {"status": "ok"})
    assert paused["coingecko"]["detail"] == f"Paused until {SOON:%Y-%m-%dT%H:%M:%SZ}: the contract is being signed"
    assert paused["coingecko"]["status"] == paused["coinpaprika"]["status"] == "degraded"
    assert paused["coingecko"]["last_run_status"] == "succeeded"
    assert paused["coinpaprika"]["detail"].startswith("Paused until it is resumed: payment_required")
    assert paused["coinpaprika"]["paused_until"] is None
    assert "paused_until" not in paused["csv_history"]
    for name in ("coingecko", "coinpaprika"):
        resume_source(engine, name)
    assert get(healthy_api, "/health")["status"] == "ok"


def test_a_pause_that_is_over_degrades_nothing(healthy_api: FlaskClient, engine: Engine) -> None:
    pause_source(engine, "coingecko", datetime.now(UTC) - timedelta(seconds=1), "disk_full: it was")
    assert get(healthy_api, "/health")["status"] == "ok"


def test_a_full_disk_degrades_the_database_and_names_the_sources(healthy_api: FlaskClient, engine: Engine) -> None:
    for source in ("coingecko", "coinpaprika"):
        pause_source(engine, source, SOON, "disk_full: Postgres reported disk_full (53100)")
    response = healthy_api.get("/health")
    assert response.json is not None
    assert (response.status_code, response.json["status"]) == (200, "degraded")
    assert response.json["checks"]["database"] == {
        "status": "degraded",
        "detail": "Its disk is full; paused sources: coingecko, coinpaprika.",
    }


@pytest.mark.parametrize("code", Code, ids=lambda code: code.slug)
def test_a_code_has_a_short_title_one_sentence_of_meaning_and_a_next_step(code: Code) -> None:
    assert 2 <= len(code.title.split()) <= 5
    assert re.fullmatch(r"[^.;:]+\.", code.about)
    assert code.hint.endswith(".")
    assert len(code.about.split()) <= 25


def test_a_problem_has_every_member_of_rfc_9457_and_the_hint_of_its_code(app: Flask) -> None:
    problem = Problem(Code.UNKNOWN_RUN, "There is no run 7.", headers={"Retry-After": "1"})
    with app.test_request_context("/runs/7"):
        response = problem.response()
    assert (response.status_code, response.mimetype) == (404, "application/problem+json")
    assert response.headers["Retry-After"] == "1"
    assert json.loads(response.data) == {
        "type": "/problems/unknown_run",
        "title": "Unknown run",
        "status": 404,
        "detail": "There is no run 7.",
        "instance": "/runs/7",
        "code": "unknown_run",
        "hint": "List the runs with `GET /runs`.",
        "errors": [],
    }


def test_an_invalid_parameter_is_named_in_the_detail_and_in_errors() -> None:
    problem = invalid_parameter("Idempotency-Key", "expected ASCII", where="header")
    assert problem.detail == "Idempotency-Key: expected ASCII"
    assert problem.errors == [{"in": "header", "name": "Idempotency-Key", "detail": "expected ASCII"}]


def test_a_quoted_value_is_short_printable_ascii() -> None:
    assert quoted("bitcoin") == "'bitcoin'"
    assert quoted("\n\xe9") == r"'\n\xe9'"
    assert len(quoted("x" * 5000)) == 63


def test_a_suggestion_ignores_case_and_needs_a_similar_name() -> None:
    assert suggestion("SORCE", ["source", "asset"]) == "; did you mean 'source'?"
    assert suggestion("volume", ["source", "asset"]) == ""
