"""Raw bodies: each kept once as it was received, compressed, under its digest."""

from __future__ import annotations

import sys

from sqlalchemy import Connection, text

from sources.contract import Page

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def keep_body(connection: Connection, source: str, page: Page) -> None:
    key = {"source": source, "digest": page.digest}
    if connection.scalar(text("SELECT 1 FROM raw_bodies WHERE source = :source AND digest = :digest"), key):
        return
    connection.execute(
        text("""
            INSERT INTO raw_bodies (source, digest, body, content_type, size, received_at)
            VALUES (:source, :digest, :body, :content_type, :size, :received_at) ON CONFLICT DO NOTHING
        """),
        {
            **key,
            "body": zstd.compress(page.body),
            "content_type": page.content_type,
            "size": len(page.body),
            "received_at": page.fetched_at,
        },
    )


def read_body(connection: Connection, source: str, digest: bytes) -> bytes | None:
    """A body as it was received; None where it is kept no more."""
    found = connection.scalar(
        text("SELECT body FROM raw_bodies WHERE source = :source AND digest = :digest"),
        {"source": source, "digest": digest},
    )
    return None if found is None else zstd.decompress(bytes(found))
