"""One database as the benchmarks see it: SQL, what was written to the log, and whether anything in it has changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import psycopg2

from store.tables import Base

AT_ONCE = 1024 * 1024
"""Bytes that a COPY takes from its file at a time."""

COLUMNS = "listing_id, observed_at, price, open, high, low, volume_24h, market_cap, fetched_at, run"
"""Of quotes: those that a history fills."""


@dataclass
class Cost:
    """What a load took: seconds, and bytes of write-ahead log."""

    seconds: float = 0
    wal: int = 0


class Database:
    """One connection, each statement a transaction of its own."""

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
        """The one value that a query gives."""
        return self.row(query, **values)[0]

    def row(self, query: str, **values: Any) -> tuple[Any, ...]:
        """The one row that a query gives."""
        with self.connection.cursor() as cursor:
            cursor.execute(query, values or None)
            [row] = cursor.fetchall()
            return tuple(row)

    def copy_in(self, file: IO[bytes]) -> None:
        with self.connection.cursor() as cursor:
            cursor.copy_expert(f"COPY quotes ({COLUMNS}) FROM STDIN", file, AT_ONCE)

    def copy_out(self, file: IO[bytes]) -> None:
        """The quotes as COPY takes them, in the order of their key."""
        query = f"SELECT {COLUMNS} FROM quotes ORDER BY listing_id, observed_at"
        with self.connection.cursor() as cursor:
            cursor.copy_expert(f"COPY ({query}) TO STDOUT", file)

    def clear(self) -> None:
        self.execute(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")

    @contextmanager
    def cost(self) -> Iterator[Cost]:
        """Of what is done meanwhile, from a state in which nothing is left to be written to the tables' files."""
        self.execute("CHECKPOINT")
        cost, begin, started = Cost(), self._written(), time.monotonic()
        yield cost
        cost.seconds, cost.wal = time.monotonic() - started, self._written() - begin

    def _written(self) -> int:
        return int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'"))

    def settle(self) -> None:
        """What autovacuum does some time after a load, so that nobody else is charged for it."""
        self.execute("VACUUM ANALYZE")

    def content(self) -> tuple[Any, ...]:
        """How many quotes, bodies and rejects there are, and a sum over all that the quotes say.

        When each was written, and by which run, is among that.
        """
        return self.row(
            "SELECT count(*), sum(hashtextextended(quotes::text, 0)),"
            " (SELECT count(*) FROM raw_bodies), (SELECT count(*) FROM rejects) FROM quotes"
        )
