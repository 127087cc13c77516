"""Define how a reject appears in responses, and the parameters that select rejects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields
from sqlalchemy import ColumnElement, exists

from app.web.arguments import Text
from app.web.envelope import Envelope
from app.web.formats import Instant
from app.web.lists import Pagination
from store.tables import REJECT_STATES, PageRow, RejectRow
from tasks.runs.parameters import SHA256


class ReasonSchema(Schema):
    """One reason why an item was rejected."""

    field = fields.String(metadata={"examples": ["price"]})
    code = fields.String(metadata={"examples": ["no_price"]})
    detail = fields.String(metadata={"examples": ["expected a price, got none"]})


class PageNameSchema(Schema):
    """The page of a run, identified by partition and number."""

    run = fields.UUID()
    partition = fields.String()
    seq = fields.Integer()


class RejectSchema(Schema):
    """An item that could not become a quote."""

    source = fields.String(metadata={"examples": ["coingecko"]})
    body = fields.Function(
        lambda reject: bytes(reject["digest"]).hex(),
        metadata={"type": "string", "description": "SHA-256 of the body that contains the item."},
    )
    item_index = fields.Integer(metadata={"description": "Position of the item in the body, from 0."})
    item = fields.String(metadata={"description": "The item as received, as text."})
    reasons = fields.List(fields.Nested(ReasonSchema))
    page = fields.Nested(
        PageNameSchema,
        metadata={"description": "The last page that contained the item."},
    )
    state = fields.String(
        metadata={
            "enum": list(REJECT_STATES),
            "description": "`quarantined`: the mapping rejects the item. `replayed`: a replay accepted it.",
        }
    )
    rejected_at = Instant()
    replayed_at = Instant(allow_none=True)


class RejectPage(Envelope):
    """A page of rejects."""

    data = fields.List(fields.Nested(RejectSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


class DigestField(Text):
    """The SHA-256 of a raw body, in hexadecimal digits."""

    def __init__(self, description: str):
        super().__init__(metadata={"description": description, "pattern": f"^{SHA256.pattern}$"})

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if not isinstance(value, str) or not SHA256.fullmatch(value):
            raise ValidationError("expected a SHA-256: 64 hexadecimal digits in lower case")
        return value


def reason_code() -> Text:
    return Text(
        max_length=100,
        metadata={"description": "Only rejects that have a reason with this code.", "examples": ["no_price"]},
    )


def reason_field() -> Text:
    return Text(
        max_length=100,
        metadata={"description": "Only rejects that have a reason for this field.", "examples": ["price"]},
    )


def reject_conditions(arguments: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Return the conditions on RejectRow for these arguments; empty if they select all rejects."""
    conditions: list[ColumnElement[bool]] = []
    if "source" in arguments:
        conditions.append(RejectRow.source.in_(arguments["source"]))
    if "state" in arguments:
        conditions.append(RejectRow.state == arguments["state"])
    if reason := {name: arguments[name] for name in ("code", "field") if name in arguments}:
        conditions.append(RejectRow.reasons.contains([reason]))
    if "body" in arguments:
        conditions.append(RejectRow.digest == bytes.fromhex(arguments["body"]))
    if "run" in arguments:
        conditions.append(
            exists().where(
                PageRow.run == arguments["run"],
                PageRow.source == RejectRow.source,
                PageRow.body_digest == RejectRow.digest,
                PageRow.rejected > 0,
            )
        )
    if "rejected_from" in arguments:
        conditions.append(RejectRow.rejected_at >= arguments["rejected_from"])
    if "rejected_to" in arguments:
        conditions.append(RejectRow.rejected_at < arguments["rejected_to"])
    return conditions
