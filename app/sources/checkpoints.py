"""Define how a checkpoint appears in responses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from marshmallow import Schema, fields
from sqlalchemy import Connection, Row, select

from app.web.formats import Instant
from sources.contract import RESERVED_PREFIXES
from store.tables import CheckpointRow


class LeaseSchema(Schema):
    """A run's right to write to the partition."""

    run = fields.UUID()
    expires = Instant(allow_none=True)


class VerdictSchema(Schema):
    """A run that could not load the newest content of a partition."""

    run = fields.UUID()
    code = fields.String(metadata={"enum": ["nothing_loaded", "mostly_rejected"]})
    items = fields.Integer()
    loaded = fields.Integer()


class CheckpointSchema(Schema):
    """The position where the next fetch of a partition starts."""

    partition = fields.String(metadata={"description": "Empty for the whole source."})
    cursor = fields.Dict(
        allow_none=True, metadata={"description": "Defined by the source; null before the first page."}
    )
    verdict = fields.Nested(
        VerdictSchema, allow_none=True, metadata={"description": "Why the newest content is not loaded; null if it is."}
    )
    missing_since = Instant(
        allow_none=True, metadata={"description": "When a live run first missed the partition; null while it exists."}
    )
    version = fields.Integer(metadata={"description": "Increases with each committed page, by random steps."})
    updated_at = Instant()
    lease = fields.Nested(LeaseSchema, allow_none=True, metadata={"description": "Null if no run may write now."})


def live_checkpoints(connection: Connection, names: list[str]) -> Sequence[Row[Any]]:
    """Return the checkpoints of these sources, without those of replays and backfills."""
    is_live = [~CheckpointRow.partition.startswith(prefix) for prefix in RESERVED_PREFIXES]
    return connection.execute(
        select(CheckpointRow)
        .where(CheckpointRow.source.in_(names), *is_live)
        .order_by(CheckpointRow.source, CheckpointRow.partition)
    ).all()


def describe_checkpoint(row: Row[Any], now: datetime) -> dict[str, Any]:
    """Return the members of CheckpointSchema. now: the service's time (aware, UTC)."""
    is_leased = row.lease_run is not None and row.lease_expires is not None and row.lease_expires > now
    lease = {"run": row.lease_run, "expires": row.lease_expires} if is_leased else None
    return {**row._mapping, "lease": lease}
