"""/assets/<slug>/agreement: whether the sources that quote an asset say the same of it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import select

from app.assets.assets import asset_response
from app.web.arguments import Envelope, Resource
from app.web.context import context, read_connection
from app.web.formats import Instant
from store.tables import AssetRow, LatestQuoteRow, ListingRow, QuoteRow
from tasks.anomalies.figures import SAME_TIME

blueprint = Resource(
    "agreement", __name__, url_prefix="/assets", description="Whether sources say the same of an asset."
)


class SaidBeforeSchema(Schema):
    """What one source said."""

    source = fields.String()
    source_asset_id = fields.String()
    price = fields.String()
    observed_at = Instant()


class SaidSchema(SaidBeforeSchema):
    """What one source says."""

    off = fields.Float(metadata={"description": "From the median of all, as a share: 0.05 is 5 % above."})
    is_outlier = fields.Boolean(metadata={"description": "Whether it is off by more than AGREEMENT_LIMIT."})


class InCurrencySchema(Schema):
    """What is said in one quote currency, of about the same time."""

    quote_currency = fields.String()
    sources = fields.Integer(metadata={"description": "How many say something of about the newest time."})
    median = fields.String()
    spread = fields.Float(metadata={"description": "From the lowest to the highest, as a share of the median."})
    agrees = fields.Boolean(allow_none=True, metadata={"description": "Null where only one source says anything."})
    said = fields.List(fields.Nested(SaidSchema))
    stale = fields.List(
        fields.Nested(SaidBeforeSchema),
        metadata={"description": "What was said more than half an hour before the newest; it is not compared."},
    )


class AgreementAnswer(Envelope):
    asset = fields.String()
    limit = fields.Float(metadata={"description": "AGREEMENT_LIMIT: the share that a source may be off by."})
    data = fields.List(fields.Nested(InCurrencySchema))


@blueprint.route("/<slug>/agreement")
@blueprint.without_query
@blueprint.response(200, AgreementAnswer)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getAgreement")
def get_agreement(slug: str) -> Response:
    """Whether the sources that quote an asset say the same of it

    Their newest prices in each quote currency, of about the same time: how far they are apart, and who is off. One that
    is far off is of another thing, a wrong match, or a broken upstream.
    """
    limit = context().settings.agreement_limit
    with read_connection() as connection:
        asset = asset_response(connection, slug)["slug"]
        rows = connection.execute(
            select(
                ListingRow.source,
                ListingRow.source_asset_id,
                ListingRow.quote_currency,
                QuoteRow.price,
                QuoteRow.observed_at,
            )
            .join(AssetRow, AssetRow.id == ListingRow.asset)
            .join(LatestQuoteRow, LatestQuoteRow.listing_id == ListingRow.id)
            .join(
                QuoteRow, (QuoteRow.listing_id == ListingRow.id) & (QuoteRow.observed_at == LatestQuoteRow.observed_at)
            )
            .where(AssetRow.slug == asset)
            .order_by(ListingRow.quote_currency, ListingRow.source, ListingRow.source_asset_id)
        ).all()
    currencies = dict.fromkeys(row.quote_currency for row in rows)
    data = [_in_currency(name, [row for row in rows if row.quote_currency == name], limit) for name in currencies]
    return jsonify(AgreementAnswer().dump({"asset": asset, "limit": limit, "data": data}))


def _in_currency(currency: str, rows: Sequence[Any], limit: float) -> dict[str, Any]:
    newest = max(row.observed_at for row in rows)
    fresh = [row for row in rows if newest - row.observed_at <= SAME_TIME]
    middle = median(row.price for row in fresh)
    said = [{**row._mapping, "off": float(row.price / middle - 1)} for row in fresh]
    prices = [row.price for row in fresh]
    return {
        "quote_currency": currency,
        "sources": len({row.source for row in fresh}),
        "median": format(middle, "f"),
        "spread": float((max(prices) - min(prices)) / middle),
        "agrees": None if len(fresh) < 2 else all(abs(it["off"]) <= limit for it in said),
        "said": [{**it, "price": format(it["price"], "f"), "is_outlier": abs(it["off"]) > limit} for it in said],
        "stale": [{**row._mapping, "price": format(row.price, "f")} for row in rows if row not in fresh],
    }
