"""Serve /assets/<slug>/agreement: compare an asset's prices across sources and flag outliers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from flask import Response, jsonify
from marshmallow import Schema, fields
from sqlalchemy import Connection, select

from app.assets.assets import asset_response
from app.web.arguments import Resource
from app.web.context import context, read_connection
from app.web.envelope import Envelope
from app.web.formats import Instant
from store.tables import AssetRow, LatestQuoteRow, ListingRow, QuoteRow
from tasks.anomalies.figures import SAME_TIME

blueprint = Resource(
    "agreement", __name__, url_prefix="/assets", description="Compare an asset's prices across sources."
)


class ListingPriceSchema(Schema):
    """The newest price of one listing."""

    source = fields.String()
    source_asset_id = fields.String()
    price = fields.String()
    observed_at = Instant()


class ComparedPriceSchema(ListingPriceSchema):
    """The newest price of one listing, compared with the median."""

    off = fields.Float(metadata={"description": "Deviation from the median, as a share: 0.05 is 5 % above it."})
    is_outlier = fields.Boolean(
        metadata={"description": "Whether the price deviates by more than AGREEMENT_LIMIT, up or down."}
    )


class CurrencyAgreementSchema(Schema):
    """The prices in one quote currency."""

    quote_currency = fields.String()
    sources = fields.Integer(metadata={"description": "Number of sources whose prices are compared."})
    median = fields.String()
    spread = fields.Float(
        metadata={"description": "Difference between the highest and the lowest price, as a share of the median."}
    )
    agrees = fields.Boolean(
        allow_none=True, metadata={"description": "Whether no price is an outlier; null if there is only one price."}
    )
    prices = fields.List(fields.Nested(ComparedPriceSchema), metadata={"description": "The compared prices."})
    stale = fields.List(
        fields.Nested(ListingPriceSchema),
        metadata={"description": "Prices observed more than 30 minutes before the newest one. They are not compared."},
    )


class AgreementResponse(Envelope):
    """An asset's prices, compared in each quote currency."""

    asset = fields.String()
    limit = fields.Float(
        metadata={"description": "AGREEMENT_LIMIT, as a share. A price that deviates more than this is an outlier."}
    )
    data = fields.List(fields.Nested(CurrencyAgreementSchema))


@blueprint.route("/<slug>/agreement")
@blueprint.without_query
@blueprint.response(200, AgreementResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="getAgreement")
def get_agreement(slug: str) -> Response:
    """Compare an asset's prices across sources

    Compares the newest price of each listing with the median of its quote currency. Only prices observed within 30
    minutes of the newest price are compared. An outlier points to a wrong match or to a broken upstream.
    """
    limit = context().settings.agreement_limit
    with read_connection() as connection:
        asset = asset_response(connection, slug)["slug"]
        rows = _newest_prices(connection, asset)
    currencies = dict.fromkeys(row.quote_currency for row in rows)
    data = [_compare_prices(name, [row for row in rows if row.quote_currency == name], limit) for name in currencies]
    return jsonify(AgreementResponse().dump({"asset": asset, "limit": limit, "data": data}))


def _newest_prices(connection: Connection, slug: str) -> Sequence[Any]:
    """Return the newest price of each of the asset's listings, ordered by quote currency."""
    return connection.execute(
        select(
            ListingRow.source,
            ListingRow.source_asset_id,
            ListingRow.quote_currency,
            QuoteRow.price,
            QuoteRow.observed_at,
        )
        .join(AssetRow, AssetRow.id == ListingRow.asset)
        .join(LatestQuoteRow, LatestQuoteRow.listing_id == ListingRow.id)
        .join(QuoteRow, (QuoteRow.listing_id == ListingRow.id) & (QuoteRow.observed_at == LatestQuoteRow.observed_at))
        .where(AssetRow.slug == slug)
        .order_by(ListingRow.quote_currency, ListingRow.source, ListingRow.source_asset_id)
    ).all()


def _compare_prices(currency: str, rows: Sequence[Any], limit: float) -> dict[str, Any]:
    """Return the members of CurrencyAgreementSchema for the rows of one quote currency."""
    newest = max(row.observed_at for row in rows)
    current = [row for row in rows if newest - row.observed_at <= SAME_TIME]
    stale = [row for row in rows if newest - row.observed_at > SAME_TIME]
    prices = [row.price for row in current]
    middle = median(prices)
    deviations = [float(price / middle - 1) for price in prices]
    return {
        "quote_currency": currency,
        "sources": len({row.source for row in current}),
        "median": format(middle, "f"),
        "spread": float((max(prices) - min(prices)) / middle),
        "agrees": None if len(current) < 2 else all(abs(deviation) <= limit for deviation in deviations),
        "prices": [
            {**_listing_price(row), "off": deviation, "is_outlier": abs(deviation) > limit}
            for row, deviation in zip(current, deviations, strict=True)
        ],
        "stale": [_listing_price(row) for row in stale],
    }


def _listing_price(row: Any) -> dict[str, Any]:
    return {**row._mapping, "price": format(row.price, "f")}
