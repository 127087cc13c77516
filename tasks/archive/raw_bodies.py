"""Raw bodies: each kept once as it was received, compressed, under its digest."""

from __future__ import annotations

import io
import struct
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import cast

import psycopg2.extensions
from sqlalchemy import Connection, text

from sources.contract import Page

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 1
"""Of prices in JSON and CSV the usual level, 3, makes as much, in twice the time."""

COPY = "COPY raw_bodies (source, digest, body, content_type, size, received_at) FROM STDIN (FORMAT binary)"
COPY_HEAD, COPY_TAIL = b"PGCOPY\n\xff\r\n\0" + bytes(8), struct.pack("!h", -1)
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


_ON_RECORD = "SELECT FROM raw_bodies WHERE source = :source AND digest = :digest"


@dataclass(frozen=True)
class PendingBody:
    """A body on its way to where it is kept. again: it was kept before, and has been dropped since."""

    compressed: Future[bytes]
    again: bool


def start_saving(connection: Connection, source: str, page: Page) -> PendingBody | None:
    """Have the body compressed while other things are done; None if it is there already."""
    named = {"source": source, "digest": page.digest}
    # Locked, or retention could drop it before the page is committed that shows it to be in use.
    if connection.execute(text(f"{_ON_RECORD} AND body IS NOT NULL FOR SHARE"), named).rowcount:
        return None
    again = connection.execute(text(_ON_RECORD), named).rowcount > 0
    return PendingBody(_compressor().submit(zstd.compress, page.body, LEVEL), again)


def save_body(connection: Connection, source: str, page: Page, keeping: PendingBody) -> None:
    """Write a body that is not there, as far as `begin_to_keep` saw."""
    if keeping.again:
        _keep_again(connection, source, page, keeping.compressed.result())
    else:
        _keep_first(connection, source, page, keeping.compressed.result())


def _keep_again(connection: Connection, source: str, page: Page, compressed: bytes) -> None:
    connection.execute(
        text("""
            UPDATE raw_bodies SET body = :body, content_type = :content_type, received_at = :received_at
             WHERE source = :source AND digest = :digest
        """),
        {
            "source": source,
            "digest": page.digest,
            "body": compressed,
            "content_type": page.content_type,
            "received_at": page.fetched_at,
        },
    )


def _keep_first(connection: Connection, source: str, page: Page, compressed: bytes) -> None:
    """In binary: as text it would be twice as long, and read twice."""
    row = (
        source.encode(),
        page.digest,
        compressed,
        page.content_type.encode(),
        struct.pack("!q", len(page.body)),
        struct.pack("!q", (page.fetched_at - POSTGRES_EPOCH) // timedelta(microseconds=1)),
    )
    cells = b"".join(struct.pack("!i", len(cell)) + cell for cell in row)
    driver = cast("psycopg2.extensions.connection", connection.connection.driver_connection)
    with driver.cursor() as cursor:
        cursor.copy_expert(COPY, io.BytesIO(COPY_HEAD + struct.pack("!h", len(row)) + cells + COPY_TAIL))


def read_body(connection: Connection, source: str, digest: bytes) -> bytes | None:
    """A body as it was received; None where it is kept no more."""
    found = connection.scalar(
        text("SELECT body FROM raw_bodies WHERE source = :source AND digest = :digest"),
        {"source": source, "digest": digest},
    )
    return None if found is None else zstd.decompress(bytes(found))


@cache
def _compressor() -> ThreadPoolExecutor:
    """One thread a process, and made by the process that uses it: a fork would not bring it along."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="compressor")
