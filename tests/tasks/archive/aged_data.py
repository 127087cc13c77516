"""Load sources with old quotes and bodies, and delete the expired ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sources.contract import Retention, Source
from tasks.archive.retention import delete_expired
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
MONTH = 30 * DAY
"""Retention of the sources in these tests."""


def at(days: float, number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return an item that was observed this many days ago."""
    return item(number, observed_at=(NOW - days * DAY).isoformat(), **changes)


def source(*pages: list[Any], ago: timedelta = timedelta(), **declared: Any) -> Source:
    """Return a source with these pages, fetched this long ago."""
    return canned(*pages, fetched_at=NOW - ago, **declared)


def days(bench: Bench) -> dict[str, list[int]]:
    """Return the age of the stored quotes in days, newest first, by symbol."""
    rows = bench.rows(
        """
        SELECT symbol,
               array_agg(round(extract(epoch FROM :now - observed_at) / 86400)::int ORDER BY observed_at DESC) AS days
          FROM quotes JOIN listings ON id = listing_id GROUP BY symbol
        """,
        now=NOW,
    )
    return {row["symbol"]: row["days"] for row in rows}


def load(bench: Bench, loaded: Source, **retention: timedelta) -> None:
    """Load a source without a retention, then register it with this retention."""
    assert bench.ingest(loaded)["status"] == "succeeded"
    bench.register(replace(loaded, retention=Retention(**retention)))


def delete(bench: Bench, **options: Any) -> None:
    delete_expired(bench.engine, bench.settings, **{"seconds": 60.0, **options})
