"""Serve /anomalies: unusual runs and sources that have fallen behind."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from marshmallow import fields
from sqlalchemy import select

from app.runs.anomaly_schemas import KINDS, AnomalySchema
from app.web import pagination
from app.web.arguments import ListOf, OneOf, PageArguments, Resource, source_name
from app.web.context import read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from app.web.lists import LINK_HEADER, Pagination, list_response
from store.tables import AnomalyRow

AnomalyKey = pagination.BigId

blueprint = Resource("anomalies", __name__, description="Unusual runs, and sources that have fallen behind.")


class AnomalyQuery(PageArguments):
    """Filters of the list of anomalies."""

    source = ListOf(source_name(), "Only anomalies of this source.")
    kind = ListOf(OneOf(KINDS), "Only anomalies of this kind.")
    run = fields.UUID(
        metadata={"description": "Only anomalies of this run."},
        error_messages={"invalid_uuid": "expected a run's id, a UUID"},
    )
    found_from = Instant(metadata={"description": "Only anomalies detected at this time or later."})


class AnomalyPage(Envelope):
    """A page of anomalies."""

    data = fields.List(fields.Nested(AnomalySchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


@blueprint.route("/anomalies")
@blueprint.arguments(AnomalyQuery, location="query")
@blueprint.response(200, AnomalyPage, headers=LINK_HEADER)
@blueprint.doc(operationId="listAnomalies")
def list_anomalies(arguments: dict[str, Any]) -> Response:
    """List anomalies, newest first

    Each finished live run is compared with up to 30 earlier runs of its source, if there are at least 8.
    """
    limit = arguments["limit"]
    query = select(AnomalyRow).order_by(AnomalyRow.id.desc()).limit(limit + 1)
    for name in ("source", "kind"):
        if name in arguments:
            query = query.where(getattr(AnomalyRow, name).in_(arguments[name]))
    if "run" in arguments:
        query = query.where(AnomalyRow.run == arguments["run"])
    if "found_from" in arguments:
        query = query.where(AnomalyRow.found_at >= arguments["found_from"])
    if "cursor" in arguments:
        after = pagination.decode(arguments["cursor"], request.path, arguments, AnomalyKey)
        query = query.where(AnomalyRow.id < after)
    with read_connection() as connection:
        rows = connection.execute(query).all()
    next_cursor = pagination.encode(request.path, arguments, rows[limit - 1].id) if len(rows) > limit else None
    return list_response(AnomalySchema(many=True).dump(rows[:limit]), limit, next_cursor)
