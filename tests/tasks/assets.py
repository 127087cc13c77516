"""Create assets and listings for tests, and read the stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from sources.record import Quote
from tasks.identity import decisions
from tasks.identity.decisions import ListingName, Overrides, Verdict, decision_lock
from tasks.identity.resolver import ListingResolver
from tasks.identity.undo import revert_change
from tests.upstreams import OBSERVED

UNISWAP, UNIVERSE = ("coinpaprika", "uni-uniswap"), ("coingecko", "universe")
"""One listing of each asset that `add_uniswap_and_universe` adds."""


def quote(id_: str, symbol: str, name: str, currency: str = "USD") -> Quote:
    return Quote(id_, symbol, name, currency, OBSERVED, price=Decimal(1))


def resolve(engine: Engine, source: str, *quotes: Quote, overrides: Overrides | None = None) -> None:
    ListingResolver(engine, source, overrides or {}).resolve(quotes)


def by_person(method: str) -> Verdict:
    return Verdict(method, "test", reason="checked")


def merge(engine: Engine, slug: str, into: str) -> UUID:
    with decision_lock(engine) as connection:
        return decisions.merge(connection, slug, into, by_person("merged"))


def split(engine: Engine, slug: str, names: Sequence[ListingName]) -> UUID:
    with decision_lock(engine) as connection:
        return decisions.split(connection, slug, names, by_person("split")).change


def pin(engine: Engine, slug: str, names: Sequence[ListingName]) -> UUID:
    with decision_lock(engine) as connection:
        return decisions.pin(connection, slug, names, by_person("pinned"))


def undo(engine: Engine, change: UUID) -> UUID:
    with decision_lock(engine) as connection:
        return revert_change(connection, change, "test", None)


def assets(engine: Engine) -> dict[str, list[str]]:
    """Return the listing ids of each asset, by slug."""
    rows = query(
        engine,
        """
        SELECT slug, array_remove(array_agg(source_asset_id ORDER BY listings.id), NULL) AS ids
          FROM assets LEFT JOIN listings ON listings.asset = assets.id GROUP BY slug
        """,
    )
    return {row.slug: row.ids for row in rows}


def state(engine: Engine) -> list[tuple[object, ...]]:
    """Return all assets and their listings, without ids and times, for comparisons."""
    rows = query(
        engine,
        """
        SELECT source, source_asset_id, quote_currency, slug, method, confidence, merged_into
          FROM assets LEFT JOIN listings ON asset = assets.id ORDER BY assets.id, listings.id
        """,
    )
    return [tuple(row) for row in rows]


def query(engine: Engine, statement: str, **values: Any) -> list[Any]:
    with engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return list(result) if result.returns_rows else []


def add_sources(engine: Engine) -> None:
    query(engine, "INSERT INTO sources (name) VALUES ('coinpaprika'), ('coingecko'), ('csv_history')")


def add_uniswap_and_universe(engine: Engine) -> None:
    """Add two assets with the symbol UNI. CoinPaprika lists Uniswap in two currencies. CoinGecko lists both assets."""
    add_sources(engine)
    resolve(engine, "coinpaprika", quote(UNISWAP[1], "UNI", "Uniswap"), quote(UNISWAP[1], "UNI", "Uniswap", "EUR"))
    resolve(engine, "coingecko", quote("uniswap", "uni", "Uniswap"), quote(UNIVERSE[1], "uni", "Universe"))


def add_acme_twice(engine: Engine, first: str = "Acme", second: str = "Acme Rockets") -> None:
    """Add two assets with the symbol ACM, one from each of two sources. By default the rematch merges them."""
    resolve(engine, "coinpaprika", quote("acm-1", "ACM", first))
    resolve(engine, "coingecko", quote("second", "acm", second))
