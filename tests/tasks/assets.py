"""Assets and their listings, as sources bring them in, and as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from sources.record import Quote
from tasks.identity import decisions
from tasks.identity import undo as taking_back
from tasks.identity.decisions import ListingName, Overrides, Verdict, decision_lock
from tasks.identity.resolver import ListingResolver
from tests.upstreams import OBSERVED

UNISWAP, UNIVERSE = ("coinpaprika", "uni-uniswap"), ("coingecko", "universe")
"""Of `two_of_a_symbol`: one listing of each asset."""


def quote(id_: str, symbol: str, name: str, currency: str = "USD") -> Quote:
    return Quote(id_, symbol, name, currency, OBSERVED, price=Decimal(1))


def resolve(engine: Engine, source: str, *quotes: Quote, overrides: Overrides | None = None) -> None:
    ListingResolver(engine, source, overrides or {}).resolve(quotes)


def merge(engine: Engine, slug: str, into: str, decided: Verdict) -> UUID:
    with decision_lock(engine) as connection:
        return decisions.merge(connection, slug, into, decided)


def split(engine: Engine, slug: str, names: Sequence[ListingName], decided: Verdict) -> UUID:
    with decision_lock(engine) as connection:
        return decisions.split(connection, slug, names, decided).change


def pin(engine: Engine, slug: str, names: Sequence[ListingName], decided: Verdict) -> UUID:
    with decision_lock(engine) as connection:
        return decisions.pin(connection, slug, names, decided)


def undo(engine: Engine, change: UUID) -> UUID:
    with decision_lock(engine) as connection:
        return taking_back.revert_change(connection, change, "test", None)


def assets(engine: Engine) -> dict[str, list[str]]:
    """For each asset's slug the ids of its listings."""
    rows = ask(
        engine,
        """
        SELECT slug, array_remove(array_agg(source_asset_id ORDER BY listings.id), NULL) AS ids
          FROM assets LEFT JOIN listings ON listings.asset = assets.id GROUP BY slug
        """,
    )
    return {row.slug: row.ids for row in rows}


def state(engine: Engine) -> list[tuple[object, ...]]:
    """All that is believed of listings and assets; ids and times apart."""
    query = """
        SELECT source, source_asset_id, quote_currency, slug, method, confidence, merged_into
          FROM assets LEFT JOIN listings ON asset = assets.id ORDER BY assets.id, listings.id
    """
    return [tuple(row) for row in ask(engine, query)]


def ask(engine: Engine, query: str, **values: Any) -> list[Any]:
    with engine.begin() as connection:
        result = connection.execute(text(query), values)
        return list(result) if result.returns_rows else []


def two_of_a_symbol(engine: Engine) -> None:
    """Two assets of one symbol: the first with a listing in each of two sources, in two currencies in one of them."""
    ask(engine, "INSERT INTO sources (name) VALUES ('coinpaprika'), ('coingecko'), ('csv_history')")
    resolve(engine, "coinpaprika", quote(UNISWAP[1], "UNI", "Uniswap"), quote(UNISWAP[1], "UNI", "Uniswap", "EUR"))
    resolve(engine, "coingecko", quote("uniswap", "uni", "Uniswap"), quote(UNIVERSE[1], "uni", "Universe"))
