"""Test the literals, parameters and plans of prepared statements."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Integer, bindparam, func, literal, select, text

from app.web import prepared
from app.web.context import context_of
from app.web.prepared import PreparedStatement
from tests.app.quotes.test_data import pages
from tests.app.rows import NOON, Rows


def test_a_page_after_a_cursor_does_not_change_the_plan_mode_of_its_session(
    app: Flask, api: FlaskClient, rows: Rows
) -> None:
    for hours in range(3):
        rows.quote(rows.listing(f"coin-{hours}"), NOON)
    assert [len(page) for page in pages(api, limit=1)] == [1, 1, 1]
    with context_of(app).reader.connect() as connection:
        assert connection.exec_driver_sql("SHOW plan_cache_mode").scalar() == "force_custom_plan"


def test_a_bindparam_is_a_literal_with_a_value_and_a_parameter_without_a_value(app: Flask) -> None:
    number: Any = bindparam("number", type_=Integer)
    statement = PreparedStatement(select(literal("50's"), number, number + 1))
    with context_of(app).reader.connect() as connection:
        for value in (1, 2):
            assert statement.row(connection, {"number": value, "surplus": "x"}) == ("50's", value, value + 1)


def test_a_session_prepares_a_statement_once(app: Flask) -> None:
    with context_of(app).reader.connect() as connection:
        for _ in range(3):
            PreparedStatement(select(func.abs(literal(-7)))).value(connection, {})
        assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 1


def test_a_session_stores_a_limited_number_of_statements(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MAX_PREPARED", 2)
    statements = [PreparedStatement(select(literal(number))) for number in range(3)]
    with context_of(app).reader.connect() as connection:
        for _ in range(2):
            assert [statement.value(connection, {}) for statement in statements] == [0, 1, 2]
        assert connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one() <= 2


def test_a_generic_plan_is_forced_for_only_one_statement(app: Flask) -> None:
    mode = PreparedStatement(select(func.current_setting("plan_cache_mode")), one_plan=True)
    with context_of(app).reader.connect() as connection:
        assert mode.value(connection, {}) == "force_generic_plan"
        assert connection.scalar(text("SHOW plan_cache_mode")) == "force_custom_plan"
