"""Access a benchmark's database: run SQL, measure time and WAL, and detect changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import psycopg2

from store.tables import Base

CHUNK_BYTES = 1024 * 1024
"""The number of bytes that COPY reads from its file at once."""

COLUMNS = "listing_id, observed_at, price, open, high, low, volume_24h, market_cap, fetched_at, run"
"""The columns of quotes that a price history has values for."""


@dataclass
class Cost:
    """The cost of a load: seconds, and bytes of write-ahead log."""

    seconds: float = 0
    wal: int = 0


class Database:
    """A connection on which each statement is its own transaction."""

    def __init__(self, url: str):
        self.url = url
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True

    def close(self) -> None:
        self.connection.close()

    def execute(self, statement: str, **values: Any) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values or None)

    def value(self, query: str, **values: Any) -> Any:
        """Return the only value of the only row of a query."""
        return self.row(query, **values)[0]

    def row(self, query: str, **values: Any) -> tuple[Any, ...]:
        """Return the only row of a query."""
        with self.connection.cursor() as cursor:
            cursor.execute(query, values or None)
            [row] = cursor.fetchall()
            return tuple(row)

    def copy_in(self, file: IO[bytes]) -> None:
        with self.connection.cursor() as cursor:
            cursor.copy_expert(f"COPY quotes ({COLUMNS}) FROM STDIN", file, CHUNK_BYTES)

    def copy_out(self, file: IO[bytes]) -> None:
        """Write the quotes in COPY format, ordered by their key."""
        query = f"SELECT {COLUMNS} FROM quotes ORDER BY listing_id, observed_at"
        with self.connection.cursor() as cursor:
            cursor.copy_expert(f"COPY ({query}) TO STDOUT", file)

    def clear(self) -> None:
        self.execute(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")

    @contextmanager
    def cost(self) -> Iterator[Cost]:
        """Measure the cost of the block, after a checkpoint."""
        self.execute("CHECKPOINT")
        cost, begin, started = Cost(), self._wal_position(), time.monotonic()
        yield cost
        cost.seconds, cost.wal = time.monotonic() - started, self._wal_position() - begin

    def _wal_position(self) -> int:
        return int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'"))

    def settle(self) -> None:
        """Vacuum now, so that autovacuum does not run during the next measurement."""
        self.execute("VACUUM ANALYZE")

    def content(self) -> tuple[Any, ...]:
        """Return the number of quotes, a checksum over all their columns, and the numbers of raw bodies and rejects.

        The checksum includes the write times and runs of the quotes.
        """
        return self.row(
            "SELECT count(*), sum(hashtextextended(quotes::text, 0)),"
            " (SELECT count(*) FROM raw_bodies), (SELECT count(*) FROM rejects) FROM quotes"
        )
