"""Serve /candidates: pairs of assets that may be the same, for a person to decide."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from marshmallow import Schema, fields
from sqlalchemy import select, text
from sqlalchemy.orm import aliased

from app.web import pagination
from app.web.arguments import PageArguments, Resource
from app.web.context import read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from app.web.lists import LINK_HEADER, Pagination, list_response
from store.tables import AssetRow, CandidateRow

blueprint = Resource("candidates", __name__, description="Pairs of assets that may be the same.")


class CandidateSchema(Schema):
    """Two assets that may be the same."""

    older = fields.String(metadata={"description": "Slug of the older asset."})
    newer = fields.String(metadata={"description": "Slug of the newer asset."})
    evidence = fields.Dict(
        metadata={"description": "The listings of both assets, their similarity, and how far their prices differ."}
    )
    found_at = Instant()


class CandidatePage(Envelope):
    """A page of candidate pairs."""

    data = fields.List(fields.Nested(CandidateSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


@blueprint.route("/candidates")
@blueprint.arguments(PageArguments, location="query")
@blueprint.response(200, CandidatePage, headers=LINK_HEADER)
@blueprint.doc(operationId="listCandidates")
def list_candidates(arguments: dict[str, Any]) -> Response:
    """List pairs of assets that may be the same

    The two assets share a symbol, and other evidence supports a merge, but not enough for an automatic merge. Or one
    source lists both, with ids that differ only in invisible characters. If they are the same, merge them. Otherwise,
    pin a listing of either asset to that asset. The next rematch then removes the pair from this list.
    """
    limit = arguments["limit"]
    older, newer = aliased(AssetRow), aliased(AssetRow)
    query = (
        select(
            CandidateRow.evidence,
            CandidateRow.found_at,
            CandidateRow.older.label("older_id"),
            CandidateRow.newer.label("newer_id"),
            older.slug.label("older"),
            newer.slug.label("newer"),
        )
        .join(older, older.id == CandidateRow.older)
        .join(newer, newer.id == CandidateRow.newer)
        .order_by(CandidateRow.older, CandidateRow.newer)
        .limit(limit + 1)
    )
    if "cursor" in arguments:
        key = pagination.decode(arguments["cursor"], request.path, arguments, tuple[pagination.BigId, pagination.BigId])
        query = query.where(
            text("(candidates.one, candidates.other) > (:older, :newer)").bindparams(older=key[0], newer=key[1])
        )
    with read_connection() as connection:
        rows = connection.execute(query).all()
    next_cursor = None
    if len(rows) > limit:
        next_cursor = pagination.encode(request.path, arguments, [rows[limit - 1].older_id, rows[limit - 1].newer_id])
    return list_response(CandidateSchema(many=True).dump(rows[:limit]), limit, next_cursor)
