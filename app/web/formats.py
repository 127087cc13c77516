"""How times and numbers are spelled in answers: one spelling, whether Postgres writes it or Python."""

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
    """An aware datetime in RFC 3339, UTC, with microseconds only where there are any."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instant_sql(at: Any) -> ColumnElement[str]:
    """The same, written by Postgres."""
    spelled = func.to_char(func.timezone("UTC", at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    return func.replace(spelled, ".000000Z", "Z")


def number_sql(number: Any) -> ColumnElement[str]:
    """A NUMERIC in plain notation, every digit of it: as text, since readers' JSON numbers are floats."""
    return cast(number, Text)


class Instant(fields.Field[datetime]):
    """An aware datetime: RFC 3339 with its offset on the way in, in UTC on the way out."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> datetime:
        if isinstance(value, str) and RFC_3339.fullmatch(value):
            try:
                return datetime.fromisoformat(value.upper()).astimezone(UTC)
            except (ValueError, OverflowError):
                pass
        raise ValidationError("expected a time with its offset, such as 2026-01-31T12:00:00Z (write a + as %2B)")

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **_: Any) -> str | None:
        return None if value is None else instant(value)


class Amount(fields.String):
    """A price or a supply, as `number_sql` spells it. Only documents: Postgres writes these."""
