"""A large table, as years of history make it: listing after listing, each hour by hour, in runs of a size."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.bench.database import Database
from tests.bench.sample import BEGIN, name, symbol
from tests.bench.scale import Scale
from tests.bench.servers import Servers
from tests.bench.service import SOURCE

FILLED = "filled"
SECOND, OLD = "coingecko", "coinpaprika"
"""Sources beside the histories: one that lists some of the same assets, and one whose rows are the oldest 1 %."""

SECOND_CURRENCY = "EUR"
OLD_COINS = 60
"""More than are read one by one; see FEW in app/quotes/data.py."""

THRICE = "coin-1"
"""The asset that has a listing in each source, as others have."""

RUN_ROWS = 100_000

INSERT_ASSET = "INSERT INTO assets (slug, symbol, name) VALUES (%(slug)s, %(symbol)s, %(name)s)"

INSERT_LISTING = """
    INSERT INTO listings (source, source_asset_id, quote_currency, symbol, name, asset, method, confidence)
    SELECT %(source)s, name, %(currency)s, symbol, name, id, 'symbol_and_name', 1 FROM assets WHERE slug = %(slug)s
    RETURNING id
"""

INSERT_RUN = """
    INSERT INTO runs (id, source, kind, status, requested_by, started_at)
    VALUES (%(run)s, %(source)s, 'live', 'succeeded', 'bench', clock_timestamp())
"""

# Prices like those of tests/bench/sample.py.
INSERT_QUOTES = """
    INSERT INTO quotes (listing_id, observed_at, price, open, high, low, volume_24h, market_cap, fetched_at, run)
    SELECT listing, %(begin)s + hour * interval '1 hour', price, price * 0.999, price * 1.01, price * 0.99,
           round(price * 123456789, 2), round(price * 20000000, 2), clock_timestamp(), %(run)s
      FROM unnest(%(listings)s) AS listing
     CROSS JOIN LATERAL (SELECT ('1e' || listing %% 14 - 9)::numeric AS size) AS sized
     CROSS JOIN generate_series(0, %(hours)s - 1) AS hour
     CROSS JOIN LATERAL (SELECT size * round((1.5 + sin(hour * 0.01 + listing) / 2)::numeric, 8) AS price) AS priced
"""

INSERT_LATEST = """
    INSERT INTO latest_quotes (listing_id, observed_at)
    SELECT listing, %(begin)s + (%(hours)s - 1) * interval '1 hour' FROM unnest(%(listings)s) AS listing
"""

# One page a run, which says how much it wrote.
INSERT_PAGE = """
    WITH body AS (
        INSERT INTO raw_bodies (source, digest, body, content_type, size, received_at)
        VALUES (%(source)s, sha256(convert_to(%(run)s, 'UTF8')), '', 'text/csv', 0, clock_timestamp())
        RETURNING source, digest)
    INSERT INTO pages (run, partition, seq, source, request, status, fetched_at, committed_at, body_digest, fetched,
                       inserted, updated, unchanged, deduplicated, rejected, blank, bytes,
                       observed_from, observed_until, listings)
    SELECT %(run)s, '', 0, source, '{}', 200, clock_timestamp(), clock_timestamp(), digest, %(rows)s, %(rows)s,
           0, 0, 0, 0, 0, 0, %(begin)s, %(begin)s + (%(hours)s - 1) * interval '1 hour', %(listings)s::int[]
      FROM body
"""

END_RUN = "UPDATE runs SET finished_at = clock_timestamp() WHERE id = %(run)s"


@dataclass(frozen=True)
class Listed:
    """What a source has in the table: so many coins, each for so many hours from a time on."""

    source: str
    currency: str
    coins: int
    begin: datetime
    hours: int


def coins(scale: Scale) -> int:
    """How many have a history. A fourth as many have a second listing."""
    return scale.listings * 4 // 5


def at(hour: int) -> datetime:
    return BEGIN + timedelta(hours=hour)


def fill(servers: Servers, scale: Scale) -> None:
    """Make the template FILLED, if there is none yet."""
    if FILLED in servers.templates:
        return
    many, few = coins(scale), scale.listings - coins(scale)
    old_hours = scale.listings * scale.hours // 100 // OLD_COINS
    with servers.filling(FILLED) as database:
        for coin in range(many):
            database.execute(INSERT_ASSET, slug=_slug(coin), symbol=symbol(coin), name=name(coin))
        _fill(database, Listed(OLD, "USD", OLD_COINS, at(-old_hours), old_hours))
        _fill(database, Listed(SOURCE, "USD", many, BEGIN, scale.hours))
        _fill(database, Listed(SECOND, SECOND_CURRENCY, few, BEGIN, scale.hours))
        database.settle()


def _fill(database: Database, listed: Listed) -> None:
    database.execute("INSERT INTO sources (name) VALUES (%(source)s)", source=listed.source)
    named = {"source": listed.source, "currency": listed.currency}
    listings = [database.value(INSERT_LISTING, **named, slug=_slug(coin)) for coin in range(listed.coins)]
    at_once = max(1, RUN_ROWS // listed.hours)
    for first in range(0, listed.coins, at_once):
        run, some = str(uuid.uuid4()), listings[first : first + at_once]
        values = {"run": run, "listings": some, "begin": listed.begin, "hours": listed.hours}
        database.execute(INSERT_RUN, run=run, source=listed.source)
        database.execute(INSERT_QUOTES, **values)
        database.execute(INSERT_LATEST, **values)
        database.execute(INSERT_PAGE, **values, source=listed.source, rows=len(some) * listed.hours)
        database.execute(END_RUN, run=run)


def _slug(coin: int) -> str:
    return f"coin-{coin}"
