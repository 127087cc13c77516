"""Format times and numbers the same way in Python and in SQL, and parse times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import ValidationError, fields
from sqlalchemy import ColumnElement, Text, cast, func

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
PLAIN_NUMBER = r"^-?\d+(\.\d+)?$"
INSTANT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z$"


def instant(at: datetime) -> str:
    """Return an aware datetime as RFC 3339 in UTC, with microseconds only if they are not zero."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instant_sql(at: Any) -> ColumnElement[str]:
    """Return an SQL expression that formats a timestamptz as `instant` does."""
    return func.replace(sortable_instant_sql(at), ".000000Z", "Z")


def sortable_instant_sql(at: Any) -> ColumnElement[str]:
    """Return an SQL expression for a timestamptz that always has microseconds, so that the text sorts by time."""
    return func.to_char(func.timezone("UTC", at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')


def number_sql(number: Any) -> ColumnElement[str]:
    """Return an SQL expression for a NUMERIC as text with every digit: many clients parse JSON numbers as floats."""
    return cast(number, Text)


class Instant(fields.Field[datetime]):
    """An aware datetime: RFC 3339 with an offset in requests, in UTC in responses."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> datetime:
        if isinstance(value, str) and RFC_3339.fullmatch(value):
            try:
                return datetime.fromisoformat(value.upper()).astimezone(UTC)
            except (ValueError, OverflowError):
                pass
        raise ValidationError("expected a time with an offset, such as 2026-01-31T12:00:00Z (write a + as %2B)")

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **_: Any) -> str | None:
        return None if value is None else instant(value)


class Amount(fields.String):
    """A price or a supply in the format of `number_sql`. Only for the OpenAPI document: Postgres writes the values."""
