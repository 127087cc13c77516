"""/sources/<name>/drift: what fields a source's items have, what has changed of them, and the word that it is right."""

from __future__ import annotations

from typing import Any, get_args

from flask import Response, jsonify, request
from marshmallow import Schema, fields
from sqlalchemy import Connection, func, select, tuple_

from app.sources.sources import require_source
from app.web import pagination
from app.web.arguments import (
    LINK_HEADER,
    Arguments,
    Envelope,
    NoQuery,
    OneOf,
    PageArguments,
    Pagination,
    Resource,
    Text,
    next_link,
)
from app.web.context import context, read_connection
from app.web.formats import Instant
from app.web.problems import Code, Problem, quoted
from sources.contract import DriftPolicy
from sources.registry import SOURCES
from store.tables import DRIFT_KINDS, DriftChangeRow, ProfileRow
from tasks.drift.watch import accept_change

DriftKey = pagination.BigId

blueprint = Resource("drift", __name__, url_prefix="/sources", description="Changes of the fields that sources send.")


class DriftQuery(PageArguments):
    """Which changes."""

    state = OneOf(
        ("waiting", "accepted"), metadata={"description": "Only those that nobody has accepted, or that are."}
    )


class AcceptBody(Arguments):
    """Who says so, for the record."""

    by = Text(max_length=100, required=True, metadata={"examples": ["ann"]})


class FieldSchema(Schema):
    """What is known of a field, from the items that were looked at."""

    field = fields.String(metadata={"description": "Its path.", "examples": ["quotes.USD.price"]})
    types = fields.List(fields.String(), metadata={"examples": [["number"]], "description": "The most frequent first."})
    missing_share = fields.Float(metadata={"description": "Of the items, how many do not have it, 0 to 1."})
    null_share = fields.Float(metadata={"description": "Of those that have it, in how many it is null, 0 to 1."})
    policy = fields.String(metadata={"enum": list(get_args(DriftPolicy))})


class ShapeSchema(Schema):
    """The fields of a source's items, in one of the formats that it sends."""

    format = fields.String(metadata={"description": "Empty where the source has one only."})
    version = fields.Integer(metadata={"description": "One higher with each change that was accepted."})
    since = Instant()
    items = fields.Integer(
        metadata={"description": "Items that were looked at; the older they are, the less they count."}
    )
    of_items = fields.List(fields.Nested(FieldSchema), data_key="fields")


class DriftChangeSchema(Schema):
    """A change of a source's fields."""

    id = fields.Integer()
    format = fields.String()
    version = fields.Integer(metadata={"description": "Of the shape that it is a change of."})
    kind = fields.String(metadata={"enum": list(DRIFT_KINDS)})
    field = fields.String(metadata={"examples": ["current_price"]})
    was = fields.String(allow_none=True, metadata={"description": "The type that it had.", "examples": ["number"]})
    became = fields.String(
        allow_none=True,
        metadata={"description": "Its type now; of one that was renamed its name.", "examples": ["currentPrice"]},
    )
    confidence = fields.Float(allow_none=True, metadata={"description": "That it was renamed, 0 to 1."})
    policy = fields.String(metadata={"enum": list(get_args(DriftPolicy)), "description": "What followed."})
    run = fields.UUID(metadata={"description": "The run that came upon it."})
    last_run = fields.UUID()
    pages = fields.Integer(metadata={"description": "That showed it."})
    first_seen_at = Instant(attribute="seen_at")
    last_seen_at = Instant()
    accepted_at = Instant(allow_none=True, metadata={"description": "Null: it waits for somebody to accept it."})
    accepted_by = fields.String(allow_none=True, metadata={"description": "`policy`: nobody had to."})


class DriftPage(Envelope):
    shapes = fields.List(fields.Nested(ShapeSchema), required=True, metadata={"description": "As they are today."})
    data = fields.List(fields.Nested(DriftChangeSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


class DriftAnswer(Envelope, DriftChangeSchema):
    """One change."""


@blueprint.route("/<name>/drift")
@blueprint.arguments(DriftQuery, location="query")
@blueprint.response(200, DriftPage, headers=LINK_HEADER)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="listDrift")
def list_drift(arguments: dict[str, Any], name: str) -> Response:
    """What fields a source's items have, and what has changed of them, newest first"""
    require_source(name)
    limit = arguments["limit"]
    wanted = (
        select(DriftChangeRow).where(DriftChangeRow.source == name).order_by(DriftChangeRow.id.desc()).limit(limit + 1)
    )
    if "state" in arguments:
        waits = DriftChangeRow.accepted_at.is_(None)
        wanted = wanted.where(waits if arguments["state"] == "waiting" else ~waits)
    if "cursor" in arguments:
        wanted = wanted.where(
            DriftChangeRow.id < pagination.decode(arguments["cursor"], request.path, arguments, DriftKey)
        )
    with read_connection() as connection:
        found = connection.execute(wanted).all()
        shapes = _shapes(connection, name)
    following = pagination.encode(request.path, arguments, found[limit - 1].id) if len(found) > limit else None
    answer = jsonify(
        {
            "shapes": ShapeSchema(many=True).dump(shapes),
            "data": DriftChangeSchema(many=True).dump(found[:limit]),
            "pagination": {"limit": limit, "next_cursor": following, "has_more": following is not None},
        }
    )
    if following:
        answer.headers["Link"] = next_link(following)
    return answer


@blueprint.route("/<name>/drift/<change>/accept", methods=["POST"])
@blueprint.arguments(AcceptBody, example={"by": "ann"})
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(200, DriftAnswer)
@blueprint.alt_response(400, "BAD_REQUEST")
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.alt_response(413, "REQUEST_ENTITY_TOO_LARGE")
@blueprint.alt_response(415, "UNSUPPORTED_MEDIA_TYPE")
@blueprint.doc(operationId="acceptDrift")
def accept_drift(body: dict[str, Any], _: dict[str, Any], name: str, change: str) -> Any:
    """Say that a change is right: from now on it is none

    What was rejected or left out for it comes in with a replay, `POST /rejects/replay` or `POST /runs`. A source that
    was frozen has to be resumed. Said twice, it is as said once.
    """
    require_source(name)
    number = int(change) if change.isascii() and change.isdigit() and len(change) < 19 else 0
    if not accept_change(context().engine, name, number, body["by"]):
        raise Problem(Code.UNKNOWN_CHANGE, f"There is no change {quoted(change)} of {name}; see /sources/{name}/drift.")
    with read_connection() as connection:
        return dict(connection.execute(select(DriftChangeRow).where(DriftChangeRow.id == number)).one()._mapping)


def _shapes(connection: Connection, name: str) -> list[dict[str, Any]]:
    newest = select(ProfileRow.format, func.max(ProfileRow.version)).group_by(ProfileRow.format)
    key = tuple_(ProfileRow.format, ProfileRow.version)
    of_source = ProfileRow.source == name
    wanted = select(ProfileRow).where(of_source, key.in_(newest.where(of_source))).order_by(ProfileRow.format)
    policies = SOURCES[name].drift
    return [
        {
            "format": row.format,
            "version": row.version,
            "since": row.created_at,
            "items": row.items,
            "of_items": [
                {
                    "field": field,
                    "types": sorted(known["types"], key=known["types"].get, reverse=True),
                    "missing_share": round(1 - min(known["present"] / max(row.items, 1), 1), 4),
                    "null_share": round(known["null"] / max(known["present"], 1), 4),
                    "policy": policies.get(field) or policies.get("*", "evolve"),
                }
                for field, known in sorted(row.fields.items())
            ],
        }
        for row in connection.execute(wanted)
    ]
