"""Test that the tables of the record name exactly its fields, and that real candles and tickers pass their rules."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sources.record import Quote, Record
from sources.record_rules import CONTRADICTION_RULES, FIELD_RULES, SIDE_FIELDS
from tests.sources.records import LATEST, RECORD, dropped
from tests.upstreams import item


def test_each_field_of_the_record_has_a_rule() -> None:
    assert list(FIELD_RULES) == [field.name for field in fields(Quote)] == list(Record(LATEST).fields)


def test_exactly_the_fields_without_which_there_is_no_quote_refuse_an_item() -> None:
    required = {name for name, field in Record(LATEST).fields.items() if field.required}
    assert required == set(FIELD_RULES) - SIDE_FIELDS
    assert SIDE_FIELDS.issuperset(field for rule in CONTRADICTION_RULES.values() for field in rule.dropped)


@pytest.mark.parametrize(("price", "expected"), [("2", 0), ("2.1", 2), ("0.5", 0), ("0.4", 2)])
def test_a_price_may_leave_the_range_of_a_ticker_by_a_factor_of_two(price: str, expected: int) -> None:
    assert len(dropped(item(price=price, high="1", low="1"))) == expected


def test_a_long_number_is_shortened_in_a_detail() -> None:
    long = "1." + "2" * 90
    [value] = RECORD.judge(item(price=long, open="3" + long, high=long, low=long)).dropped
    assert (value.field, value.code) == ("open", "open_outside_range")
    assert len(value.detail) < 200
