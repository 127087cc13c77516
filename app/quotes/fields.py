"""Define the members of a quote in responses, and the query that returns a page of quotes as JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from marshmallow import Schema, fields, validate
from sqlalchemy import BigInteger, ColumnElement, Subquery, Text, bindparam, cast, func, literal, select

from app.web.arguments import CommaSeparated
from app.web.etags import DATA_VERSION
from app.web.formats import INSTANT, PLAIN_NUMBER, Amount, Instant, instant_sql, number_sql
from store.tables import AssetRow, ListingRow

Columns = Any
"""The columns of rows of `quotes`, by name."""

MEMBERS: Mapping[str, Callable[[Columns], ColumnElement[Any]]] = {
    "source": lambda _: ListingRow.source.expression,
    "asset": lambda _: AssetRow.slug.expression,
    "symbol": lambda _: ListingRow.symbol.expression,
    "name": lambda _: ListingRow.name.expression,
    "source_asset_id": lambda _: ListingRow.source_asset_id.expression,
    "quote_currency": lambda _: ListingRow.quote_currency.expression,
    "observed_at": lambda quote: instant_sql(quote.observed_at),
    "price": lambda quote: number_sql(quote.price),
    "open": lambda quote: number_sql(quote.open),
    "high": lambda quote: number_sql(quote.high),
    "low": lambda quote: number_sql(quote.low),
    "volume_24h": lambda quote: number_sql(quote.volume_24h),
    "market_cap": lambda quote: number_sql(quote.market_cap),
    "change_24h_pct": lambda quote: number_sql(quote.change_24h_pct),
    "rank": lambda quote: quote.rank,
    "circulating_supply": lambda quote: number_sql(quote.circulating_supply),
    "total_supply": lambda quote: number_sql(quote.total_supply),
    "max_supply": lambda quote: number_sql(quote.max_supply),
    "fetched_at": lambda quote: instant_sql(quote.fetched_at),
    "ingested_at": lambda quote: instant_sql(quote.ingested_at),
    "run": lambda quote: quote.run,
}

FREE_TEXT = ("source", "asset", "symbol", "name", "source_asset_id", "quote_currency")
"""Members whose text comes from upstreams and can contain any character."""

TIMES = ("observed_at", "fetched_at", "ingested_at")

AMOUNTS = (
    "price",
    "open",
    "high",
    "low",
    "volume_24h",
    "market_cap",
    "change_24h_pct",
    "circulating_supply",
    "total_supply",
    "max_supply",
)
"""Members that are NUMERIC in Postgres, with up to 100 digits."""

WHOLE_NUMBERS = ("rank",)
"""Members that are always numbers in JSON."""


def _amount(description: str, *, null: bool = True) -> Amount:
    return Amount(allow_none=null, validate=validate.Regexp(PLAIN_NUMBER), metadata={"description": description})


def _time(description: str) -> Instant:
    return Instant(metadata={"description": description, "pattern": INSTANT})


class QuoteSchema(Schema):
    """The price of one listing at one time. Null means unknown, never zero."""

    partial_response = True  # the `fields` parameter selects members

    source = fields.String(metadata={"examples": ["coingecko"]})
    asset = fields.String(
        metadata={"description": "Slug of the asset, the same across sources.", "examples": ["bitcoin"]}
    )
    symbol = fields.String(metadata={"description": "The source's symbol; not unique.", "examples": ["BTC"]})
    name = fields.String(metadata={"examples": ["Bitcoin"]})
    source_asset_id = fields.String(metadata={"description": "The source's own id.", "examples": ["bitcoin"]})
    quote_currency = fields.String(metadata={"description": "Currency of the amounts.", "examples": ["USD"]})
    observed_at = _time("Time of the price, according to the source.")
    price = _amount("Price in the quote currency, greater than 0.", null=False)
    open = _amount("First price of the period, if the source reports periods.")
    high = _amount("Highest price of the period, or of the last 24 hours.")
    low = _amount("Lowest price of the period, or of the last 24 hours.")
    volume_24h = _amount("Volume traded in 24 hours, in the quote currency.")
    market_cap = _amount("Market cap in the quote currency.")
    change_24h_pct = _amount("Change of the price in 24 hours, in percent.")
    rank = fields.Integer(
        allow_none=True, metadata={"description": "Rank by market cap in this source.", "examples": [1]}
    )
    circulating_supply = _amount("Circulating supply in units of the asset.")
    total_supply = _amount("Total supply in units of the asset.")
    max_supply = _amount("Maximum supply in units of the asset.")
    fetched_at = _time("Time of the request to the source.")
    ingested_at = _time("Start of the transaction that wrote the quote.")
    run = fields.UUID(metadata={"description": "The run that wrote the quote."})


class Members(CommaSeparated):
    """The parameter `fields`: the members of each row of a response."""

    def __init__(self, **options: Any):
        super().__init__(MEMBERS, "member", "Members of each row, in this order. Default: all.", **options)


LIMIT = bindparam("limit", type_=BigInteger)
"""The maximum number of rows on a page."""


def json_object(
    members: Mapping[str, ColumnElement[Any]], numbers: Collection[str] = WHOLE_NUMBERS
) -> ColumnElement[str]:
    """Return the SQL of a row as a JSON object with these members. numbers: members to write without quotation marks.

    Concatenate text: row_to_json takes a third longer, since it looks up how to format the type of each value.
    """
    parts: list[Any] = []
    for name, value in members.items():
        parts += [f'{"," if parts else "{"}"{name}":', func.coalesce(_json(name, value, numbers), "null")]
    return func.concat(*parts, "}")


def _json(name: str, value: ColumnElement[Any], numbers: Collection[str]) -> ColumnElement[str]:
    text = cast(func.to_json(value) if name in FREE_TEXT else value, Text)
    # The members that are not free text need no escaping.
    return text if name in FREE_TEXT or name in numbers else literal('"', Text) + text + literal('"', Text)


class JsonRows(NamedTuple):
    """A page of rows.

    data: a JSON array. rows: the number of rows read, at most one more than the limit. state: the state of the data.
    last: the key of the page's last row, if there are more rows.
    """

    data: str
    rows: int
    has_more: bool
    state: str
    last: tuple[Any, ...]

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> JsonRows:
        data, rows, has_more, state, *last = row
        return cls(data, rows, has_more, state, tuple(last))


def rows_as_json(
    rows: Subquery, members: Sequence[str], order: Callable[[Columns], Sequence[Any]], key: Sequence[str], limit: int
) -> Any:
    """Return the query whose only row `JsonRows.of` reads. That row has the first `limit` rows as JSON.

    rows: a subquery with the columns of `quotes` and at most LIMIT + 1 rows. Postgres writes the JSON text, and nothing
    parses it again. This is ten times as fast as serializing the rows in Python.
    """
    page = (
        select(
            json_object({name: MEMBERS[name](rows.c) for name in members}).label("quote"),
            *[rows.c[name] for name in key],
            func.row_number().over(order_by=order(rows.c)).label("position"),
        )
        .select_from(rows)
        .join(ListingRow, ListingRow.id == rows.c.listing_id)
        .join(AssetRow, AssetRow.id == ListingRow.asset)
        .subquery("page")
    )
    # Order by the key, not by the position: rows arrive in the order of the key, so Postgres does not sort them again.
    quotes = func.string_agg(page.c.quote, ",").aggregate_order_by(*order(page.c)).filter(page.c.position <= LIMIT)
    array = literal("[", Text) + quotes + literal("]", Text)
    return (
        select(
            func.coalesce(array, "[]").label("data"),
            func.count().label("rows"),
            (func.count() > LIMIT).label("has_more"),
            DATA_VERSION.label("state"),
            *[func.max(page.c[name]).filter(page.c.position == LIMIT).label(name) for name in key],
        )
        .select_from(page)
        .params(limit=limit)
    )
