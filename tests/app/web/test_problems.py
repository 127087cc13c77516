"""Test the members and texts of an error response."""

from __future__ import annotations

import json
import re

import pytest
from flask import Flask

from app.web.problems import Code, Problem, invalid_parameter, quoted, suggestion


@pytest.mark.parametrize("code", Code, ids=lambda code: code.slug)
def test_each_error_code_has_a_short_title_a_one_sentence_meaning_and_a_next_step(code: Code) -> None:
    assert 2 <= len(code.title.split()) <= 5
    assert re.fullmatch(r"[^.;:]+\.", code.about)
    assert code.hint.endswith(".")
    assert len(code.about.split()) <= 25


def test_an_error_response_has_every_member_of_rfc_9457_and_the_hint_of_its_code(app: Flask) -> None:
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
