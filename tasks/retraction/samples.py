"""Describe the first missing quotes of a run: their values, and the page and the line that they came from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, text

from settings import Settings
from sources.contract import Source, TerminalError, TransientError
from tasks.pipeline.origin import Origin, find_origin
from tasks.retraction.state import QuotePosition, Retraction

_QUOTE = text("""
    SELECT source_asset_id, quote_currency, price::text AS price
      FROM quotes JOIN listings ON listings.id = listing_id
     WHERE listing_id = :listing AND observed_at = CAST(:observed_at AS timestamptz)
""")


def describe_samples(
    engine: Engine, settings: Settings, source: Source, retraction: Retraction
) -> list[dict[str, Any]]:
    """Return the first missing quotes, with the members of the API's SampleSchema."""
    with engine.connect() as connection:
        samples = [_describe(connection, settings, source, position) for position in retraction.first]
    return [sample for sample in samples if sample]


def _describe(
    connection: Connection, settings: Settings, source: Source, position: QuotePosition
) -> dict[str, Any] | None:
    listing, at = position
    quote = connection.execute(_QUOTE, {"listing": listing, "observed_at": at}).one_or_none()
    if quote is None:  # Retention deleted it.
        return None
    key, observed_at = (quote.source_asset_id, quote.quote_currency), datetime.fromisoformat(at)
    try:
        origin = find_origin(connection, source, listing, key, observed_at, settings.clock_skew)
    except (TerminalError, TransientError):  # The file is no longer declared, or has other columns now.
        origin = None
    return {**quote._mapping, "observed_at": at, **_location(origin)}


def _location(origin: Origin | None) -> dict[str, Any]:
    """Return the run, the page, the file and the line that a quote came from. Unknown values are null."""
    item = origin.item if origin and isinstance(origin.item, dict) and "file" in origin.request else {}
    return {
        "run": str(origin.run) if origin else None,
        "partition": origin.partition if origin else None,
        "page": origin.seq if origin else None,
        "file": item.get("file"),
        "line": item.get("line"),
    }
