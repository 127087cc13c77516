"""/candidates: pairs of assets that may be one, which await a decision."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from marshmallow import Schema, fields
from sqlalchemy import select, text
from sqlalchemy.orm import aliased

from app.web import pagination
from app.web.arguments import LINK_HEADER, Envelope, PageArguments, Pagination, Resource, list_response
from app.web.context import read_connection
from app.web.formats import Instant
from store.tables import AssetRow, CandidateRow

blueprint = Resource("candidates", __name__, description="Pairs of assets that may be one.")


class CandidateSchema(Schema):
    """Two assets that may be one."""

    one = fields.String(metadata={"description": "Slug of the older one."})
    other = fields.String(metadata={"description": "Slug of the newer one."})
    evidence = fields.Dict(metadata={"description": "What is alike, how far prices are apart, and what is listed."})
    found_at = Instant()


class CandidatePage(Envelope):
    data = fields.List(fields.Nested(CandidateSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


@blueprint.route("/candidates")
@blueprint.arguments(PageArguments, location="query")
@blueprint.response(200, CandidatePage, headers=LINK_HEADER)
@blueprint.doc(operationId="listCandidates")
def list_candidates(arguments: dict[str, Any]) -> Response:
    """Pairs of assets that may be one

    They have a symbol in common, and something else speaks for it, but not enough. Merge the two, or pin a listing of
    one to its asset: then it is no candidate any more.
    """
    limit = arguments["limit"]
    one, other = aliased(AssetRow), aliased(AssetRow)
    wanted = (
        select(
            CandidateRow.evidence,
            CandidateRow.found_at,
            one.id,
            other.id.label("other_id"),
            one.slug,
            other.slug.label("other"),
        )
        .join(one, one.id == CandidateRow.one)
        .join(other, other.id == CandidateRow.other)
        .order_by(CandidateRow.one, CandidateRow.other)
        .limit(limit + 1)
    )
    if "cursor" in arguments:
        key = pagination.decode(arguments["cursor"], request.path, arguments, tuple[pagination.BigId, pagination.BigId])
        wanted = wanted.where(
            text("(candidates.one, candidates.other) > (:one, :other)").bindparams(one=key[0], other=key[1])
        )
    with read_connection() as connection:
        rows = connection.execute(wanted).all()
    following = None
    if len(rows) > limit:
        following = pagination.encode(request.path, arguments, [rows[limit - 1].id, rows[limit - 1].other_id])
    shown = [{**row._mapping, "one": row.slug} for row in rows[:limit]]
    return list_response(CandidateSchema(many=True).dump(shown), limit, following)
