"""Serve /dropped-values: count the invalid values that became null, although their items became quotes."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify
from marshmallow import fields
from sqlalchemy import ColumnElement

from app.runs.dropped_schemas import SourceDroppedValuesSchema, count_dropped_values, dropped_code, dropped_field
from app.web.arguments import Arguments, ListOf, Resource, Text, source_name
from app.web.context import read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from store.tables import PageRow

blueprint = Resource(
    "dropped values",
    __name__,
    url_prefix="/dropped-values",
    description="Invalid values that became null, although their items became quotes.",
)

MAX_ROWS = 1000


class DroppedValuesQuery(Arguments):
    """Filters of the counts."""

    source = ListOf(source_name(), "Only values of this source.")
    field = Text(max_length=100, metadata={"description": "Only values of this field.", "examples": ["max_supply"]})
    code = Text(max_length=100, metadata={"description": "Only values with this code.", "examples": ["negative"]})
    run = fields.UUID(
        metadata={"description": "Only values in pages of this run."},
        error_messages={"invalid_uuid": "expected a run's id, a UUID"},
    )
    dropped_from = Instant(metadata={"description": "Only values in pages committed at this time or later."})
    dropped_to = Instant(metadata={"description": "Only values in pages committed before this time."})


class DroppedValuesCounts(Envelope):
    """Counts of dropped values by source, field and code."""

    data = fields.List(fields.Nested(SourceDroppedValuesSchema), required=True)
    has_more = fields.Boolean(
        required=True,
        metadata={"description": f"Whether there are more than {MAX_ROWS} rows. Use filters to see the rest."},
    )


@blueprint.route("")
@blueprint.arguments(DroppedValuesQuery, location="query")
@blueprint.response(200, DroppedValuesCounts)
@blueprint.doc(operationId="countDroppedValues")
def get_dropped_values(arguments: dict[str, Any]) -> Response:
    """Count dropped values by source, field and code

    An invalid value of a field such as `high` or `rank` becomes null, and its item becomes a quote without it. A value
    counts once for each page that contains it. The most frequent come first.
    """
    with read_connection() as connection:
        rows = count_dropped_values(connection, *_conditions(arguments), limit=MAX_ROWS + 1)
    counts = SourceDroppedValuesSchema(many=True).dump(rows[:MAX_ROWS])
    return jsonify({"data": counts, "has_more": len(rows) > MAX_ROWS})


def _conditions(arguments: dict[str, Any]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if "source" in arguments:
        conditions.append(PageRow.source.in_(arguments["source"]))
    if "field" in arguments:
        conditions.append(dropped_field == arguments["field"])
    if "code" in arguments:
        conditions.append(dropped_code == arguments["code"])
    if "run" in arguments:
        conditions.append(PageRow.run == arguments["run"])
    if "dropped_from" in arguments:
        conditions.append(PageRow.committed_at >= arguments["dropped_from"])
    if "dropped_to" in arguments:
        conditions.append(PageRow.committed_at < arguments["dropped_to"])
    return conditions
