"""Load rows in two common ways: an upsert for each row, and marshmallow on each row before a COPY."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from sources.contract import Reject
from sources.csv_history import source
from sources.record import Quote, Record
from store.engine import make_engine
from store.tables import QuoteRow
from tests.bench.database import COLUMNS, Cost, Database
from tests.bench.sample import FILE

COMMIT_EVERY = 1000
VALUES = ("price", "open", "high", "low", "volume_24h", "market_cap")
RUN = "00000000-0000-0000-0000-000000000001"

MERGE = f"""
    INSERT INTO quotes ({COLUMNS}) SELECT {COLUMNS} FROM staged
    ON CONFLICT (listing_id, observed_at) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in VALUES)}
"""


def upsert_each_row(database: Database, rows: Path, count: int) -> Cost:
    """Upsert each row with a separate statement in a session, without validation. Commit every thousand rows."""
    with rows.open(encoding="utf-8") as file:
        values = [_typed(*line.rstrip("\n").split("\t")) for line in islice(file, count)]
    engine = make_engine(database.url, "bench")
    with Session(engine) as session, database.cost() as cost:
        for number, row in enumerate(values, 1):
            upsert = insert(QuoteRow).values(row)
            changed = {name: upsert.excluded[name] for name in VALUES}
            session.execute(upsert.on_conflict_do_update(index_elements=["listing_id", "observed_at"], set_=changed))
            if number % COMMIT_EVERY == 0:
                session.commit()
        session.commit()
    engine.dispose()
    assert database.value("SELECT count(*) FROM quotes") == count
    return cost


def _typed(listing: str, observed: str, *texts: str) -> dict[str, Any]:
    *numbers, fetched, run = texts
    return {
        "listing_id": int(listing),
        "observed_at": datetime.fromisoformat(observed),
        **dict(zip(VALUES, map(Decimal, numbers), strict=True)),
        "fetched_at": datetime.fromisoformat(fetched),
        "run": UUID(run),
    }


def validate_and_copy(database: Database, file: Path, count: int) -> Cost:
    """Validate every row with the row validator, COPY into a staging table, and merge. Store nothing else."""
    database.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS staged AS SELECT {COLUMNS} FROM quotes WITH NO DATA")
    with database.cost() as cost:
        encoded = io.BytesIO()
        now = datetime.now(UTC)
        listings: dict[str, int] = {}
        for quote in _valid_quotes(file, now, count):
            listing = listings.setdefault(quote.source_asset_id, len(listings))
            values = (getattr(quote, name) for name in VALUES)
            encoded.write("\t".join(map(str, (listing, quote.observed_at, *values, now, RUN))).encode() + b"\n")
        encoded.seek(0)
        with database.connection.cursor() as cursor:
            cursor.copy_expert(f"COPY staged ({COLUMNS}) FROM STDIN", encoded)
            cursor.execute(MERGE)
    database.execute("DROP TABLE staged")
    return cost


def _valid_quotes(path: Path, now: datetime, count: int) -> Iterator[Quote]:
    record = Record(now)
    with path.open(encoding="utf-8", newline="") as file:
        for row in islice(csv.DictReader(file), count):
            if None in row.values():
                continue  # The row is too short.
            with suppress(Reject):
                yield record.judge(source.normalize({"file": FILE, "row": row, "currency": None})).quote
