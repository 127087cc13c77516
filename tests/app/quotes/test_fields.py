"""Test the members of a quote: their selection, their documentation, and their JSON."""

from __future__ import annotations

import json

from flask.testing import FlaskClient
from sqlalchemy import Engine, Numeric, Text, cast, literal, null, select

from app.quotes.fields import MEMBERS, JsonRows, QuoteSchema, json_object
from tests.app.quotes.test_data import get
from tests.app.rows import Rows


def test_the_fields_parameter_selects_members_and_their_order(api: FlaskClient, rows: Rows) -> None:
    rows.quote(rows.listing())
    assert list(get(api, "/data", fields="price,asset")["data"][0].items()) == [("price", "1.5"), ("asset", "bitcoin")]


def test_every_member_is_documented_in_the_order_of_the_response() -> None:
    assert list(QuoteSchema().fields) == list(MEMBERS)


def test_json_has_text_and_amounts_as_strings_and_the_rank_as_a_number(engine: Engine) -> None:
    members = {
        "name": cast(literal('a "b"\n\\ü'), Text),
        "price": literal("0.10", Numeric),
        "rank": literal(7),
        "low": cast(null(), Numeric),
    }
    with engine.connect() as connection:
        text = connection.execute(select(json_object(members))).scalar_one()
    assert json.loads(text) == {"name": 'a "b"\n\\ü', "price": "0.10", "rank": 7, "low": None}


def test_the_key_of_the_last_row_is_the_rest_of_the_text_after_the_state() -> None:
    page = JsonRows.of(("[]", 3, True, "state", "noon", 7))
    assert (page.data, page.rows, page.has_more, page.state, page.last) == ("[]", 3, True, "state", ("noon", 7))
