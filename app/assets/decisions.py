"""Which asset a listing is of, as people decide it: merged, split off, pinned, undone; and all that was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from flask import Response, request
from marshmallow import Schema, fields, validate
from sqlalchemy import Connection, select

from app.assets.assets import AssetAnswer, asset_response
from app.assets.filters import asset_ids
from app.web import pagination
from app.web.arguments import (
    LINK_HEADER,
    Arguments,
    Envelope,
    NoQuery,
    PageArguments,
    Pagination,
    Resource,
    Text,
    list_response,
    source_name,
)
from app.web.context import context, read_connection
from app.web.formats import Instant
from app.web.problems import Code, Problem
from store.tables import AssetRow, DecisionRow, ListingRow
from tasks.identity.decisions import DecisionRefused, ListingName, Verdict, decision_lock, merge, pin, split
from tasks.identity.undo import revert_change

blueprint = Resource("decisions", __name__, description="Which asset a listing is of, and why.")

MOST_LISTINGS = 100


class Reasoned(Arguments):
    reason = Text(max_length=500, required=True, metadata={"description": "Kept with the decision."})


class MergeBody(Reasoned):
    """Two assets that are one."""

    into = Text(required=True, metadata={"description": "Slug of the asset that stays."})


class NamedListing(Arguments):
    """A listing, in all its quote currencies."""

    source = source_name(required=True, metadata={"examples": ["coinpaprika"]})
    source_asset_id = Text(required=True, metadata={"examples": ["btc-bitcoin"]})


class ListingsBody(Reasoned):
    """Listings that are decided of."""

    listings = fields.List(fields.Nested(NamedListing), required=True, validate=validate.Length(1, MOST_LISTINGS))


class ChangedAsset(AssetAnswer):
    change = fields.UUID(metadata={"description": "What `POST /decisions/<change>/undo` undoes."})


class SplitAsset(ChangedAsset):
    made = fields.String(metadata={"description": "Slug of the asset that the listings are of now."})


class ChangeAnswer(Envelope):
    change = fields.UUID(metadata={"description": "The undoing, which can be undone as well."})


class DecisionQuery(PageArguments):
    """Whose decisions."""

    asset = Text(metadata={"description": "Only that a listing is of this asset, by its slug."})
    source = source_name(metadata={"description": "Only of this source's listings."})
    source_asset_id = Text(metadata={"description": "Only of listings with this id."})
    change = fields.UUID(metadata={"description": "Only what was decided together."})


class DecisionSchema(Schema):
    """That a listing is of an asset, as it was decided once."""

    change = fields.UUID(allow_none=True, metadata={"description": "Null where a source brought the listing in."})
    source = fields.String(metadata={"examples": ["coinpaprika"]})
    source_asset_id = fields.String(metadata={"examples": ["btc-bitcoin"]})
    quote_currency = fields.String(metadata={"examples": ["USD"]})
    asset = fields.String(metadata={"examples": ["bitcoin"]})
    method = fields.String(metadata={"examples": ["known_pair", "symbol_and_name", "merged", "pinned"]})
    confidence = fields.Float(metadata={"description": "From 0 to 1."})
    evidence = fields.Dict(metadata={"description": "What spoke for it."})
    decided_by = fields.String(metadata={"examples": ["resolver", "second_look", "overrides", "api"]})
    reason = fields.String(allow_none=True)
    decided_at = Instant()


class DecisionPage(Envelope):
    data = fields.List(fields.Nested(DecisionSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


def _deciding(
    path: str, body: type[Schema], example: dict[str, Any], operation: str, answer: type[Schema] = ChangedAsset
) -> Callable[[Any], Any]:
    """A route for a decision about an asset."""

    def decorate(view: Any) -> Any:
        view = blueprint.doc(operationId=operation)(view)
        for status, name in ((400, "BAD_REQUEST"), (404, "NOT_FOUND"), (409, "CONFLICT")):
            view = blueprint.alt_response(status, name)(view)
        for status, name in ((413, "REQUEST_ENTITY_TOO_LARGE"), (415, "UNSUPPORTED_MEDIA_TYPE")):
            view = blueprint.alt_response(status, name)(view)
        view = blueprint.response(200, answer)(view)
        view = blueprint.arguments(NoQuery, location="query")(view)
        view = blueprint.arguments(body, example=example)(view)
        return blueprint.route(path, methods=["POST"])(view)

    return decorate


LISTINGS = {
    "listings": [{"source": "coinpaprika", "source_asset_id": "uni-universe"}],
    "reason": "Universe is not Uniswap.",
}


@_deciding("/assets/<slug>/merge", MergeBody, {"into": "bitcoin", "reason": "They are one."}, "mergeAssets")
def merge_assets(body: dict[str, Any], _: dict[str, Any], slug: str) -> dict[str, Any]:
    """All listings of this asset are of another

    Its slug stands for that one from then on. No quote is touched.
    """
    with _transaction() as connection:
        change = merge(connection, slug, body["into"], _by("merged", body))
        return {**asset_response(connection, body["into"]), "change": change}


@_deciding("/assets/<slug>/split", ListingsBody, LISTINGS, "splitAsset", SplitAsset)
def split_asset(body: dict[str, Any], _: dict[str, Any], slug: str) -> dict[str, Any]:
    """Some listings of this asset are of one of their own

    Answers with the asset that they left.
    """
    with _transaction() as connection:
        change, made = split(connection, slug, _names(body), _by("split", body))
        return {**asset_response(connection, slug), "change": change, "made": made}


@_deciding("/assets/<slug>/pin", ListingsBody, LISTINGS, "pinListings")
def pin_listings(body: dict[str, Any], _: dict[str, Any], slug: str) -> dict[str, Any]:
    """These listings are of this asset, whatever they were of, and no rule moves them"""
    with _transaction() as connection:
        change = pin(connection, slug, _names(body), _by("pinned", body))
        return {**asset_response(connection, slug), "change": change}


@blueprint.route("/decisions/<uuid:change>/undo", methods=["POST"])
@blueprint.arguments(Reasoned, example={"reason": "It was the right one after all."})
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(200, ChangeAnswer)
@blueprint.alt_response(400, "BAD_REQUEST")
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.alt_response(409, "CONFLICT")
@blueprint.alt_response(413, "REQUEST_ENTITY_TOO_LARGE")
@blueprint.alt_response(415, "UNSUPPORTED_MEDIA_TYPE")
@blueprint.doc(operationId="undoChange")
def undo_change(body: dict[str, Any], _: dict[str, Any], change: UUID) -> dict[str, Any]:
    """Each listing of a change is again what it was before"""
    with _transaction() as connection:
        return {"change": revert_change(connection, change, "api", body["reason"])}


@blueprint.route("/decisions")
@blueprint.arguments(DecisionQuery, location="query")
@blueprint.response(200, DecisionPage, headers=LINK_HEADER)
@blueprint.doc(operationId="listDecisions")
def list_decisions(arguments: dict[str, Any]) -> Response:
    """Decisions, newest first

    Nothing that was ever decided of a listing is missing here.
    """
    limit = arguments["limit"]
    wanted = (
        select(DecisionRow, ListingRow.source, ListingRow.source_asset_id, ListingRow.quote_currency, AssetRow.slug)
        .join(ListingRow, ListingRow.id == DecisionRow.listing)
        .join(AssetRow, AssetRow.id == DecisionRow.asset)
        .order_by(DecisionRow.id.desc())
        .limit(limit + 1)
    )
    columns = {
        "source": ListingRow.source,
        "source_asset_id": ListingRow.source_asset_id,
        "change": DecisionRow.change,
    }
    for name, column in columns.items():
        if name in arguments:
            wanted = wanted.where(column == arguments[name])
    if "cursor" in arguments:
        wanted = wanted.where(
            DecisionRow.id < pagination.decode(arguments["cursor"], request.path, arguments, tuple[pagination.BigId])[0]
        )
    with read_connection() as connection:
        if "asset" in arguments:
            wanted = wanted.where(DecisionRow.asset.in_(asset_ids(connection, [arguments["asset"]])))
        rows = connection.execute(wanted).all()
    following = pagination.encode(request.path, arguments, [rows[limit - 1].id]) if len(rows) > limit else None
    shown = [{**row._mapping, "asset": row.slug} for row in rows[:limit]]
    return list_response(DecisionSchema(many=True).dump(shown), limit, following)


def _by(method: str, body: dict[str, Any]) -> Verdict:
    return Verdict(method, "api", reason=body["reason"])


def _names(body: dict[str, Any]) -> list[ListingName]:
    return [(it["source"], it["source_asset_id"]) for it in body["listings"]]


CODES = {
    "unknown_asset": Code.UNKNOWN_ASSET,
    "unknown_change": Code.UNKNOWN_CHANGE,
    "unknown_listing": Code.INVALID_BODY,
    "conflict": Code.DECISION_CONFLICT,
}


@contextmanager
def _transaction() -> Iterator[Connection]:
    """The transaction of a decision. The answer is read in it, or a change could be made and its id be lost.

    What is refused is a Problem.
    """
    try:
        with decision_lock(context().engine) as connection:
            yield connection
    except DecisionRefused as refused:
        errors = [{"in": "body", "name": "listings", "detail": detail} for detail in refused.each]
        raise Problem(CODES[refused.code], str(refused), errors=errors) from None
