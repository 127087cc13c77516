"""Define how an anomaly appears in responses; find and count anomalies."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from marshmallow import Schema, fields
from sqlalchemy import Connection, func, select

from app.web.formats import Instant
from store.tables import AnomalyRow

KINDS = (
    *("rows", "rejects", "repeats", "nulls", "duration", "lag", "price", "agreement", "apart", "schema", "late"),
    "set_back",
)

RECENT = timedelta(days=1)
"""Age of the anomalies that statistics count."""


class AnomalySchema(Schema):
    """Something unusual about a run, a source or an asset."""

    id = fields.Integer()
    source = fields.String()
    run = fields.UUID(
        allow_none=True, metadata={"description": "Null for `late` and `set_back`, which concern a whole source."}
    )
    kind = fields.String(metadata={"enum": list(KINDS)})
    subject = fields.String(
        allow_none=True,
        metadata={"description": "The affected field, listing or asset; null if the whole run or source is affected."},
    )
    value = fields.Float(allow_none=True, metadata={"description": "The measured value."})
    expected = fields.Float(allow_none=True, metadata={"description": "The usual or expected value."})
    detail = fields.String(metadata={"examples": ["6 items, where 60 is usual"]})
    found_at = Instant()
    ended_at = Instant(
        attribute="over_at",
        allow_none=True,
        metadata={"description": "When an anomaly of kind `late`, `apart` or `set_back` ended; null for other kinds."},
    )


def run_anomalies(connection: Connection, runs: list[UUID]) -> list[Any]:
    """Return the members of AnomalySchema for each anomaly of these runs, the oldest first."""
    rows = connection.execute(select(AnomalyRow).where(AnomalyRow.run.in_(runs)).order_by(AnomalyRow.id)).all()
    return list(AnomalySchema(many=True).dump(rows))


def recent_anomaly_counts(connection: Connection) -> dict[str, int]:
    """Return the number of anomalies detected in the last 24 hours, by source."""
    rows = connection.execute(
        select(AnomalyRow.source, func.count().label("anomalies"))
        .where(AnomalyRow.found_at >= select(func.service_time() - RECENT).scalar_subquery())
        .group_by(AnomalyRow.source)
    )
    return {row.source: row.anomalies for row in rows}
