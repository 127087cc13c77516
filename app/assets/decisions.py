"""Serve decisions that assign listings to assets: merge, split, pin, undo and list them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from flask import Response, request
from marshmallow import Schema, fields, validate
from sqlalchemy import Connection, select

from app.assets.assets import AssetResponse, asset_response
from app.assets.filters import asset_ids
from app.web import pagination
from app.web.arguments import Arguments, NoQuery, PageArguments, Resource, Text, source_name
from app.web.context import context, read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from app.web.lists import LINK_HEADER, Pagination, list_response
from app.web.problems import Code, Problem
from store.tables import AssetRow, DecisionRow, ListingRow
from tasks.identity.decisions import DecisionRefused, ListingName, Verdict, decision_lock, merge, pin, split
from tasks.identity.undo import revert_change

blueprint = Resource("decisions", __name__, description="Decisions that assign listings to assets.")

MAX_LISTINGS_PER_DECISION = 100


class ReasonBody(Arguments):
    """The reason for the decision."""

    reason = Text(max_length=500, required=True, metadata={"description": "Stored with the decision."})


class MergeBody(ReasonBody):
    """The asset to merge into, and the reason."""

    into = Text(required=True, metadata={"description": "Slug of the asset that remains."})


class ListingReference(Arguments):
    """A source's listing, in all its quote currencies."""

    source = source_name(required=True, metadata={"examples": ["coinpaprika"]})
    source_asset_id = Text(required=True, metadata={"examples": ["btc-bitcoin"]})


class ListingsBody(ReasonBody):
    """The listings to move, and the reason."""

    listings = fields.List(
        fields.Nested(ListingReference), required=True, validate=validate.Length(1, MAX_LISTINGS_PER_DECISION)
    )


class ChangedAssetResponse(AssetResponse):
    """The asset after the decision, and the id of the change."""

    change = fields.UUID(metadata={"description": "Id of the change. `POST /decisions/<change>/undo` undoes it."})


class SplitAssetResponse(ChangedAssetResponse):
    """The asset that was split, the slug of the new asset, and the id of the change."""

    new_asset = fields.String(metadata={"description": "Slug of the new asset."})


class ChangeResponse(Envelope):
    """The id of the change."""

    change = fields.UUID(metadata={"description": "Id of the new change, which can itself be undone."})


class DecisionQuery(PageArguments):
    """Filters of the list of decisions."""

    asset = Text(metadata={"description": "Only decisions that assign a listing to this asset, by its slug."})
    source = source_name(metadata={"description": "Only decisions about listings of this source."})
    source_asset_id = Text(metadata={"description": "Only decisions about listings with this id in their source."})
    change = fields.UUID(metadata={"description": "Only decisions of this change."})


class DecisionSchema(Schema):
    """One decision, which assigns a listing to an asset."""

    change = fields.UUID(
        allow_none=True,
        metadata={"description": "Id of the change; null if the decision was made while data was loaded."},
    )
    source = fields.String(metadata={"examples": ["coinpaprika"]})
    source_asset_id = fields.String(metadata={"examples": ["btc-bitcoin"]})
    quote_currency = fields.String(metadata={"examples": ["USD"]})
    asset = fields.String(metadata={"examples": ["bitcoin"]})
    method = fields.String(metadata={"examples": ["known_pair", "symbol_and_name", "merged", "pinned"]})
    confidence = fields.Float(metadata={"description": "Confidence in the decision, from 0 to 1."})
    evidence = fields.Dict(metadata={"description": "What supports the decision."})
    decided_by = fields.String(metadata={"examples": ["resolver", "second_look", "overrides", "api"]})
    reason = fields.String(allow_none=True)
    decided_at = Instant()


class DecisionPage(Envelope):
    """A page of decisions."""

    data = fields.List(fields.Nested(DecisionSchema), required=True)
    pagination = fields.Nested(Pagination, required=True)


def _decision_route(
    path: str,
    body: type[Schema],
    example: dict[str, Any],
    operation: str,
    response: type[Schema] = ChangedAssetResponse,
) -> Callable[[Any], Any]:
    """Return a decorator that adds the route of a decision about an asset, and documents it."""

    def decorate(view: Any) -> Any:
        view = blueprint.doc(operationId=operation)(view)
        view = blueprint.alt_response(404, "NOT_FOUND")(view)
        view = blueprint.alt_response(409, "CONFLICT")(view)
        view = blueprint.response(200, response)(view)
        view = blueprint.arguments(NoQuery, location="query")(view)
        view = blueprint.arguments(body, example=example)(view)
        return blueprint.route(path, methods=["POST"])(view)

    return decorate


SPLIT_EXAMPLE = {
    "listings": [{"source": "coinpaprika", "source_asset_id": "uni-universe"}],
    "reason": "Universe is not Uniswap.",
}


@_decision_route("/assets/<slug>/merge", MergeBody, {"into": "bitcoin", "reason": "Both are Bitcoin."}, "mergeAssets")
def merge_assets(body: dict[str, Any], _: dict[str, Any], slug: str) -> dict[str, Any]:
    """Merge an asset into another

    All listings of this asset move to the other asset. This asset's slug then resolves to the other asset. Quotes do
    not change.
    """
    with _transaction() as connection:
        change = merge(connection, slug, body["into"], _verdict("merged", body))
        return {**asset_response(connection, body["into"]), "change": change}


@_decision_route("/assets/<slug>/split", ListingsBody, SPLIT_EXAMPLE, "splitAsset", SplitAssetResponse)
def split_asset(body: dict[str, Any], _: dict[str, Any], slug: str) -> dict[str, Any]:
    """Split listings off into a new asset

    Returns the asset that was split.
    """
    with _transaction() as connection:
        change, new_asset = split(connection, slug, _listing_names(body), _verdict("split", body))
        return {**asset_response(connection, slug), "change": change, "new_asset": new_asset}


@_decision_route("/assets/<slug>/pin", ListingsBody, SPLIT_EXAMPLE, "pinListings")
def pin_listings(body: dict[str, Any], _: dict[str, Any], slug: str) -> dict[str, Any]:
    """Pin listings to an asset

    The listings move to this asset. Afterwards, no rule moves them to another asset.
    """
    with _transaction() as connection:
        change = pin(connection, slug, _listing_names(body), _verdict("pinned", body))
        return {**asset_response(connection, slug), "change": change}


@blueprint.route("/decisions/<uuid:change>/undo", methods=["POST"])
@blueprint.arguments(ReasonBody, example={"reason": "The merge was correct."})
@blueprint.arguments(NoQuery, location="query")
@blueprint.response(200, ChangeResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.alt_response(409, "CONFLICT")
@blueprint.doc(operationId="undoChange")
def undo_change(body: dict[str, Any], _: dict[str, Any], change: UUID) -> dict[str, Any]:
    """Undo a change

    Each listing of the change returns to its previous asset.
    """
    with _transaction() as connection:
        return {"change": revert_change(connection, change, "api", body["reason"])}


@blueprint.route("/decisions")
@blueprint.arguments(DecisionQuery, location="query")
@blueprint.response(200, DecisionPage, headers=LINK_HEADER)
@blueprint.doc(operationId="listDecisions")
def list_decisions(arguments: dict[str, Any]) -> Response:
    """List decisions, newest first

    The list is complete: decisions are never changed or deleted.
    """
    limit = arguments["limit"]
    query = (
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
            query = query.where(column == arguments[name])
    if "cursor" in arguments:
        query = query.where(
            DecisionRow.id < pagination.decode(arguments["cursor"], request.path, arguments, tuple[pagination.BigId])[0]
        )
    with read_connection() as connection:
        if "asset" in arguments:
            query = query.where(DecisionRow.asset.in_(asset_ids(connection, [arguments["asset"]])))
        rows = connection.execute(query).all()
    next_cursor = pagination.encode(request.path, arguments, [rows[limit - 1].id]) if len(rows) > limit else None
    decisions = [{**row._mapping, "asset": row.slug} for row in rows[:limit]]
    return list_response(DecisionSchema(many=True).dump(decisions), limit, next_cursor)


def _verdict(method: str, body: dict[str, Any]) -> Verdict:
    return Verdict(method, "api", reason=body["reason"])


def _listing_names(body: dict[str, Any]) -> list[ListingName]:
    return [(listing["source"], listing["source_asset_id"]) for listing in body["listings"]]


PROBLEM_CODES = {
    "unknown_asset": Code.UNKNOWN_ASSET,
    "unknown_change": Code.UNKNOWN_CHANGE,
    "unknown_listing": Code.INVALID_BODY,
    "conflict": Code.DECISION_CONFLICT,
}


@contextmanager
def _transaction() -> Iterator[Connection]:
    """Yield a connection in the transaction of a decision. Raise a Problem if the decision is refused.

    Read the response's data on this connection. If a read after the commit failed, the client would never get the
    change's id.
    """
    try:
        with decision_lock(context().engine) as connection:
            yield connection
    except DecisionRefused as refused:
        errors = [{"in": "body", "name": "listings", "detail": detail} for detail in refused.details]
        raise Problem(PROBLEM_CODES[refused.code], str(refused), errors=errors) from None
