"""One anomaly as it is answered, and those of runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from marshmallow import Schema, fields
from sqlalchemy import Connection, func, select

from app.web.formats import Instant
from store.tables import AnomalyRow

KINDS = ("rows", "rejects", "repeats", "nulls", "duration", "lag", "price", "agreement", "apart", "schema", "late")

OF_LATE = timedelta(days=1)


class AnomalySchema(Schema):
    """Something out of the ordinary. Of a source that has fallen behind, and of assets apart, until it is over."""

    id = fields.Integer()
    source = fields.String()
    run = fields.UUID(allow_none=True)
    kind = fields.String(metadata={"enum": list(KINDS)})
    subject = fields.String(allow_none=True, metadata={"description": "The field or listing, where it is of one."})
    value = fields.Float(allow_none=True)
    expected = fields.Float(allow_none=True, metadata={"description": "What is usual: a median."})
    detail = fields.String(metadata={"examples": ["6 items, where 60 is usual"]})
    found_at = Instant()
    ended_at = Instant(attribute="over_at", allow_none=True)


def run_anomalies(connection: Connection, runs: list[UUID]) -> list[Any]:
    rows = connection.execute(select(AnomalyRow).where(AnomalyRow.run.in_(runs)).order_by(AnomalyRow.id)).all()
    return list(AnomalySchema(many=True).dump(rows))


def late_anomalies(connection: Connection) -> dict[str, int]:
    """By source how many were found within a day."""
    rows = connection.execute(
        select(AnomalyRow.source, func.count().label("found"))
        .where(AnomalyRow.found_at >= func.clock_timestamp() - OF_LATE)
        .group_by(AnomalyRow.source)
    )
    return {row.source: row.found for row in rows}
