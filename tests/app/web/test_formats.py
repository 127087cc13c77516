"""Test that times and numbers have the same format in Python and SQL."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings
from marshmallow import ValidationError
from sqlalchemy import Engine, literal, select

from app.web.formats import PLAIN_NUMBER, Instant, instant, instant_sql, number_sql


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=strategies.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=strategies.just(UTC)),  # noqa: DTZ001 — hypothesis requires naive bounds
    number=strategies.decimals(allow_nan=False, allow_infinity=False, places=None).filter(
        lambda number: -80 < number.adjusted() < 80
    ),
)
def test_postgres_and_python_format_times_and_numbers_identically(
    engine: Engine, at: datetime, number: Decimal
) -> None:
    with engine.connect() as connection:
        formatted = connection.execute(select(instant_sql(literal(at)), number_sql(literal(number)))).one()
    assert formatted[0] == instant(at)
    assert formatted[1] == format(number if number else abs(number), "f")
    assert re.fullmatch(PLAIN_NUMBER, formatted[1])


def test_an_instant_is_in_utc_with_microseconds_only_if_not_zero() -> None:
    two_hours_east = timezone(timedelta(hours=2))
    assert instant(datetime(2026, 1, 31, 14, 1, tzinfo=two_hours_east)) == "2026-01-31T12:01:00Z"
    assert instant(datetime(2026, 1, 31, 12, 1, 0, 5, tzinfo=UTC)) == "2026-01-31T12:01:00.000005Z"


@pytest.mark.parametrize("text", ["2026-01-31T14:01:00+02:00", "2026-01-31t12:01:00z", "2026-01-31 12:01:00.000Z"])
def test_an_instant_is_parsed_with_any_offset(text: str) -> None:
    assert Instant().deserialize(text) == datetime(2026, 1, 31, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:01:00", "2026-02-30T12:01:00Z", "2026-01-31", "0001-01-01T00:00:00+14:00"]
)
def test_an_instant_without_an_offset_or_out_of_range_is_rejected(text: str) -> None:
    with pytest.raises(ValidationError, match="expected a time with an offset"):
        Instant().deserialize(text)
