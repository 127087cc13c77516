"""Fill a large table like years of history: one listing after another, each in order of time."""

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
"""Two additional sources. One lists some of the same assets, and the other has the oldest 1 % of the rows."""

SECOND_CURRENCY = "EUR"
OLD_COINS = 60
"""More than FEW in app/quotes/data.py, the maximum number of listings that are read one by one."""

SHARED_ASSET = "coin-1"
"""An asset that has a listing in each source."""

ROWS_PER_RUN = 100_000

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

# Each run has one page, which reports all its rows.
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
class HistorySpec:
    """The rows of one source: the number of coins, and the number of hours for each coin since `begin`."""

    source: str
    currency: str
    coins: int
    begin: datetime
    hours: int


def coin_count(scale: Scale) -> int:
    """Return the number of coins with a history. A quarter of this number have a second listing."""
    return scale.listings * 4 // 5


def hour_at(hour: int) -> datetime:
    return BEGIN + timedelta(hours=hour)


def fill(servers: Servers, scale: Scale) -> None:
    """Create the template FILLED, unless it exists."""
    if FILLED in servers.templates:
        return
    first_listings, second_listings = coin_count(scale), scale.listings - coin_count(scale)
    old_hours = scale.listings * scale.hours // 100 // OLD_COINS
    with servers.new_template(FILLED) as database:
        for coin in range(first_listings):
            database.execute(INSERT_ASSET, slug=_slug(coin), symbol=symbol(coin), name=name(coin))
        _fill(database, HistorySpec(OLD, "USD", OLD_COINS, hour_at(-old_hours), old_hours))
        _fill(database, HistorySpec(SOURCE, "USD", first_listings, BEGIN, scale.hours))
        _fill(database, HistorySpec(SECOND, SECOND_CURRENCY, second_listings, BEGIN, scale.hours))
        database.settle()


def _fill(database: Database, spec: HistorySpec) -> None:
    database.execute("INSERT INTO sources (name) VALUES (%(source)s)", source=spec.source)
    parameters = {"source": spec.source, "currency": spec.currency}
    listings = [database.value(INSERT_LISTING, **parameters, slug=_slug(coin)) for coin in range(spec.coins)]
    coins_per_run = max(1, ROWS_PER_RUN // spec.hours)
    for first in range(0, spec.coins, coins_per_run):
        run, batch = str(uuid.uuid4()), listings[first : first + coins_per_run]
        values = {"run": run, "listings": batch, "begin": spec.begin, "hours": spec.hours}
        database.execute(INSERT_RUN, run=run, source=spec.source)
        database.execute(INSERT_QUOTES, **values)
        database.execute(INSERT_LATEST, **values)
        database.execute(INSERT_PAGE, **values, source=spec.source, rows=len(batch) * spec.hours)
        database.execute(END_RUN, run=run)


def _slug(coin: int) -> str:
    return f"coin-{coin}"
