"""Serve /sources/<name>/drift: list the fields of a source's items and their changes, and accept a change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from flask import Response, request
from marshmallow import Schema, fields
from sqlalchemy import Connection, func, select, tuple_

from app.sources.sources import require_source
from app.web import pagination
from app.web.arguments import Arguments, NoQuery, OneOf, PageArguments, Resource, Text
from app.web.context import context, read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from app.web.lists import LINK_HEADER, Pagination, list_response
from app.web.problems import Code, Problem, quoted
from sources.contract import DriftPolicy, Source
from sources.registry import SOURCES
from store.tables import DRIFT_KINDS, DriftChangeRow, ProfileRow
from tasks.drift.stored_profiles import accept_change

DriftKey = pagination.BigId

blueprint = Resource(
    "drift", __name__, url_prefix="/sources", description="The fields that sources send, and their changes."
)


class DriftQuery(PageArguments):
    """Filters of the list of changes."""

    state = OneOf(
        ("waiting", "accepted"),
        metadata={
            "description": "`waiting`: only changes that are not accepted yet. `accepted`: only accepted changes."
        },
    )


class AcceptBody(Arguments):
    """The person who accepts the change."""

    by = Text(max_length=100, required=True, metadata={"description": "Stored with the change.", "examples": ["ann"]})


class FieldSchema(Schema):
    """The profile of one field, from the sampled items."""

    field = fields.String(metadata={"description": "Path of the field.", "examples": ["quotes.USD.price"]})
    types = fields.List(
        fields.String(),
        metadata={"examples": [["number"]], "description": "Types of its values, the most frequent first."},
    )
    missing_share = fields.Float(metadata={"description": "Share of the items that lack the field, from 0 to 1."})
    null_share = fields.Float(
        metadata={"description": "Share of null values among the items that have the field, from 0 to 1."}
    )
    policy = fields.String(metadata={"enum": list(get_args(DriftPolicy)), "description": "Drift policy of the field."})


class ProfileSchema(Schema):
    """The profile of a source's items in one format."""

    format = fields.String(metadata={"description": "Empty if the source has only one format."})
    version = fields.Integer(metadata={"description": "Increases by one whenever changes are accepted."})
    since = Instant(metadata={"description": "Time when this version was stored."})
    items = fields.Integer(metadata={"description": "Number of sampled items; older items have less weight."})
    item_fields = fields.List(fields.Nested(FieldSchema), data_key="fields")


class DriftChangeSchema(Schema):
    """A change of a source's fields."""

    id = fields.Integer()
    format = fields.String()
    version = fields.Integer(metadata={"description": "Version of the profile that the change was compared with."})
    kind = fields.String(metadata={"enum": list(DRIFT_KINDS)})
    field = fields.String(metadata={"examples": ["current_price"]})
    was = fields.String(
        allow_none=True, metadata={"description": "Previous type of the field.", "examples": ["number"]}
    )
    became = fields.String(
        allow_none=True,
        metadata={
            "description": "New type of the field, or new name of a renamed field.",
            "examples": ["currentPrice"],
        },
    )
    confidence = fields.Float(
        allow_none=True, metadata={"description": "Confidence that the field was renamed, from 0 to 1."}
    )
    policy = fields.String(
        metadata={"enum": list(get_args(DriftPolicy)), "description": "The drift policy that was applied."}
    )
    run = fields.UUID(metadata={"description": "The first run that showed the change."})
    last_run = fields.UUID(metadata={"description": "The last run that showed the change."})
    pages = fields.Integer(metadata={"description": "Number of pages that showed the change."})
    first_seen_at = Instant(attribute="seen_at")
    last_seen_at = Instant()
    accepted_at = Instant(allow_none=True, metadata={"description": "Null until the change is accepted."})
    accepted_by = fields.String(
        allow_none=True,
        metadata={"description": "The person who accepted the change; `policy` if the drift policy accepted it."},
    )


class DriftPage(Envelope):
    """The profiles of a source, and a page of field changes."""

    profiles = fields.List(
        fields.Nested(ProfileSchema), required=True, metadata={"description": "The current profile of each format."}
    )
    data = fields.List(fields.Nested(DriftChangeSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


class DriftResponse(Envelope, DriftChangeSchema):
    """One change."""


@blueprint.route("/<name>/drift")
@blueprint.arguments(DriftQuery, location="query")
@blueprint.response(200, DriftPage, headers=LINK_HEADER)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="listDrift")
def list_drift(arguments: dict[str, Any], name: str) -> Response:
    """List a source's fields and their changes, newest first"""
    require_source(name)
    limit = arguments["limit"]
    query = (
        select(DriftChangeRow).where(DriftChangeRow.source == name).order_by(DriftChangeRow.id.desc()).limit(limit + 1)
    )
    if "state" in arguments:
        is_waiting = DriftChangeRow.accepted_at.is_(None)
        query = query.where(is_waiting if arguments["state"] == "waiting" else ~is_waiting)
    if "cursor" in arguments:
        query = query.where(
            DriftChangeRow.id < pagination.decode(arguments["cursor"], request.path, arguments, DriftKey)
        )
    with read_connection() as connection:
        rows = connection.execute(query).all()
        profiles = _profiles(connection, name)
    next_cursor = pagination.encode(request.path, arguments, rows[limit - 1].id) if len(rows) > limit else None
    return list_response(
        DriftChangeSchema(many=True).dump(rows[:limit]),
        limit,
        next_cursor,
        profiles=ProfileSchema(many=True).dump(profiles),
    )


@blueprint.route("/<name>/drift/<change>/accept", methods=["POST"])
@blueprint.arguments(AcceptBody, example={"by": "ann"})
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(200, DriftResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="acceptDrift")
def accept_drift(body: dict[str, Any], _: dict[str, Any], name: str, change: str) -> Any:
    """Accept a change

    Updates the profile, so that the changed fields are expected. To load items that were rejected or that lost a
    field, request a replay with `POST /rejects/replay` or `POST /runs`. If the policy `freeze` paused the source,
    resume it with `POST /sources/<name>/resume`. Accepting a change again has no effect.
    """
    require_source(name)
    change_id = _change_id(change)
    if not accept_change(context().engine, name, change_id, body["by"]):
        detail = f"{name} has no change {quoted(change)}. GET /sources/{name}/drift lists its changes."
        raise Problem(Code.UNKNOWN_CHANGE, detail)
    with read_connection() as connection:
        return dict(connection.execute(select(DriftChangeRow).where(DriftChangeRow.id == change_id)).one()._mapping)


def _change_id(text: str) -> int:
    """Return the id in a path. If it is no number or too large for a bigint, return 0, which is no change's id."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _profiles(connection: Connection, name: str) -> list[dict[str, Any]]:
    """Return the members of ProfileSchema for the newest profile of each of the source's formats."""
    of_source = ProfileRow.source == name
    newest = select(ProfileRow.format, func.max(ProfileRow.version)).where(of_source).group_by(ProfileRow.format)
    is_newest = tuple_(ProfileRow.format, ProfileRow.version).in_(newest)
    rows = connection.execute(select(ProfileRow).where(of_source, is_newest).order_by(ProfileRow.format))
    return [
        {
            "format": row.format,
            "version": row.version,
            "since": row.created_at,
            "items": row.items,
            "item_fields": [
                _field(field, stats, row.items, SOURCES.get(name)) for field, stats in sorted(row.fields.items())
            ],
        }
        for row in rows
    ]


def _field(field: str, stats: Mapping[str, Any], items: int, source: Source | None) -> dict[str, Any]:
    """Return the members of FieldSchema. stats: as tasks/drift/profile.py stores them."""
    policies = source.drift if source else {}  # The policies of a broken source are unknown.
    return {
        "field": field,
        "types": sorted(stats["types"], key=stats["types"].get, reverse=True),
        "missing_share": round(1 - min(stats["present"] / max(items, 1), 1), 4),
        "null_share": round(stats["null"] / max(stats["present"], 1), 4),
        "policy": policies.get(field) or policies.get("*", "evolve"),
    }
