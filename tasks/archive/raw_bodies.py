"""Store raw bodies exactly as received: once per digest, compressed."""

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

COMPRESSION_LEVEL = 1
"""The default level, 3, takes twice the time and compresses prices in JSON and CSV no better."""

COPY = "COPY raw_bodies (source, digest, body, content_type, size, received_at) FROM STDIN (FORMAT binary)"
COPY_HEAD, COPY_TAIL = b"PGCOPY\n\xff\r\n\0" + bytes(8), struct.pack("!h", -1)
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_ROW = "SELECT FROM raw_bodies WHERE source = :source AND digest = :digest"


@dataclass(frozen=True)
class PendingBody:
    """A body that is being compressed. is_known: whether its row exists, but retention deleted the body."""

    compressed: Future[bytes]
    is_known: bool


def start_saving(connection: Connection, source: str, page: Page) -> PendingBody | None:
    """Start compressing the body in another thread. Return None if the body is already stored."""
    key = {"source": source, "digest": page.digest}
    # Lock the row, so that retention cannot delete the body before this page is committed.
    if connection.execute(text(f"{_ROW} AND body IS NOT NULL FOR SHARE"), key).rowcount:
        return None
    is_known = connection.execute(text(_ROW), key).rowcount > 0
    return PendingBody(_compressor().submit(zstd.compress, page.body, COMPRESSION_LEVEL), is_known)


def save_body(connection: Connection, source: str, page: Page, pending: PendingBody) -> None:
    """Write a body that was not stored yet when `start_saving` was called."""
    write = _restore if pending.is_known else _insert
    write(connection, source, page, pending.compressed.result())


def _restore(connection: Connection, source: str, page: Page, compressed: bytes) -> None:
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


def _insert(connection: Connection, source: str, page: Page, compressed: bytes) -> None:
    """Insert the body with a binary COPY. As text, it would be twice as long."""
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
    """Return the decompressed body, or None if it is no longer stored."""
    compressed = connection.scalar(
        text("SELECT body FROM raw_bodies WHERE source = :source AND digest = :digest"),
        {"source": source, "digest": digest},
    )
    return None if compressed is None else zstd.decompress(bytes(compressed))


@cache
def _compressor() -> ThreadPoolExecutor:
    """Return the process's compressor thread. It starts at first use, since threads do not survive a fork."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="compressor")
