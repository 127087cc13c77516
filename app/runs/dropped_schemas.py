"""Define how dropped values appear in responses, and count them by field and code."""

from __future__ import annotations

from collections.abc import Sequence

from marshmallow import Schema, fields
from sqlalchemy import BigInteger, ColumnElement, Connection, RowMapping, cast, column, func, select, true
from sqlalchemy.dialects.postgresql import JSONB, array

from app.web.formats import Instant
from store.tables import PageRow

_DROPPED = func.jsonb_array_elements(PageRow.dropped).table_valued(column("value", JSONB)).render_derived("dropped")

dropped_field, dropped_code, _detail, _item = (
    _DROPPED.c.value.op("->>")(name) for name in ("field", "code", "detail", "item")
)
"""The field and the code of an element of `pages.dropped`, for conditions."""


class DroppedValuesSchema(Schema):
    """Invalid values of one field that became null for one reason. Their items are quotes with a price."""

    field = fields.String(metadata={"examples": ["max_supply"]})
    code = fields.String(metadata={"examples": ["out_of_range"]})
    count = fields.Integer(metadata={"description": "Number of values that became null."})
    first_dropped_at = Instant(metadata={"description": "When the first page with such a value was committed."})
    last_dropped_at = Instant()
    detail = fields.String(
        metadata={
            "description": "Why one of the values is invalid.",
            "examples": ["expected 0 or more, got Decimal('-5')"],
        }
    )
    item = fields.String(metadata={"description": "The item with that value, as JSON, shortened."})


class SourceDroppedValuesSchema(DroppedValuesSchema):
    """Invalid values of one field of one source that became null for one reason."""

    source = fields.String(metadata={"examples": ["coingecko"]})


def count_dropped_values(
    connection: Connection, *conditions: ColumnElement[bool], limit: int | None = None
) -> Sequence[RowMapping]:
    """Return the dropped values of pages by source, field and code, the most frequent first."""
    count = func.sum(cast(_DROPPED.c.value.op("->>")("count"), BigInteger)).label("count")
    # The detail and the item of one value belong together.
    example = func.min(array([_detail, _item]))
    query = (
        select(
            PageRow.source,
            dropped_field.label("field"),
            dropped_code.label("code"),
            count,
            func.min(PageRow.committed_at).label("first_dropped_at"),
            func.max(PageRow.committed_at).label("last_dropped_at"),
            example[1].label("detail"),
            example[2].label("item"),
        )
        .join_from(PageRow, _DROPPED, true())
        .where(PageRow.dropped.is_not(None), *conditions)
        .group_by(PageRow.source, dropped_field, dropped_code)
        .order_by(count.desc(), PageRow.source, dropped_field, dropped_code)
        .limit(limit)
    )
    return connection.execute(query).mappings().all()
