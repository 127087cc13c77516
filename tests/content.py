"""Hash all loaded data by natural keys and values. The hash does not depend on how the data was loaded."""

from __future__ import annotations

import hashlib

from sqlalchemy import Engine, text

CONTENT = """
    SELECT l.source, l.source_asset_id, l.quote_currency, l.symbol, l.name, a.slug, q.observed_at, q.price, q.open,
           q.high, q.low, q.volume_24h, q.market_cap, q.change_24h_pct, q.rank, q.circulating_supply, q.total_supply,
           q.max_supply, n.observed_at = q.observed_at AS newest
      FROM quotes q JOIN listings l ON l.id = q.listing_id JOIN assets a ON a.id = l.asset
      LEFT JOIN latest_quotes n ON n.listing_id = l.id
     ORDER BY l.source, l.source_asset_id, l.quote_currency, q.observed_at
"""


def content_hash(engine: Engine) -> str:
    """Return a text with the number of quotes and their hash."""
    with engine.connect() as connection:
        rows = [tuple(map(str, row)) for row in connection.execute(text(CONTENT))]
    return f"{len(rows)} quotes, {hashlib.sha256(repr(rows).encode()).hexdigest()}"
