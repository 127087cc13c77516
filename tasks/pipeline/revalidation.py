"""What an upstream last answered to each request: what did not change since is neither sent nor loaded again.

A row moves in its page's own transaction, so it never speaks of a page that is not in. To pass a body by is right only
while loading it would change nothing: so a body that means something else at another time leaves no row, a quote that
another page overwrites takes the rows of its source with it, and a row counts for the code alone that read the body.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

import sources
from settings import VERSION
from sources.contract import Page, Source
from sources.http.revalidation import KnownResponse
from sources.registry import SOURCES
from tasks.archive.raw_bodies import read_body
from tasks.drift import mapping
from tasks.pipeline import normalize
from tasks.pipeline.normalize import NormalizedPage
from tasks.runs.leases import Lease

_REQUEST = "sha256(convert_to(CAST(:request AS jsonb)::text, 'UTF8'))"


def known_response(engine: Engine, source: Source, partition: str, request: Mapping[str, Any]) -> KnownResponse | None:
    """What was last answered to a request, if it was read as it would be today and its body is still kept."""
    with engine.connect() as connection:
        row = connection.execute(
            text(f"""
                SELECT etag, last_modified, digest, content_type
                  FROM validators JOIN raw_bodies USING (source, digest)
                 WHERE source = :source AND partition = :partition AND request = {_REQUEST} AND mapping = :mapping
                   AND body IS NOT NULL
            """),
            {
                "source": source.name,
                "partition": partition,
                "request": json.dumps(request),
                "mapping": mapping_fingerprint(source),
            },
        ).one_or_none()
    if row is None:
        return None
    digest = bytes(row.digest)
    return KnownResponse(
        row.etag, row.last_modified, digest, row.content_type, partial(_body, engine, source.name, digest)
    )


def _body(engine: Engine, source: str, digest: bytes) -> bytes | None:
    with engine.connect() as connection:
        return read_body(connection, source, digest)


def save_validator(
    connection: Connection, lease: Lease, page: Page, normalized: NormalizedPage, *, overwrites: bool
) -> None:
    """Note what was answered to the page's request, in the transaction that loads the page.

    overwrites: the page changed quotes that were there, so that another's body is no longer what they say.
    """
    reply = page.reply if page.is_the_reply else None
    if reply is None and not overwrites:
        return
    key = {"source": lease.claim.source, "partition": lease.partition, "request": json.dumps(page.request)}
    _one_at_a_time(connection, lease)
    if overwrites:
        connection.execute(text("DELETE FROM validators WHERE source = :source"), key)
    if reply is None:
        return
    answered = {
        "etag": reply.etag,
        "last_modified": reply.last_modified,
        "digest": page.digest,
        "mapping": normalized.mapping,
    }
    if page.unchanged:
        # No INSERT: if the row has gone meanwhile, that was for a reason.
        connection.execute(
            text(f"""
                UPDATE validators SET etag = :etag, last_modified = :last_modified
                 WHERE source = :source AND partition = :partition AND request = {_REQUEST}
                   AND digest = :digest AND mapping = :mapping
                   AND (etag, last_modified) IS DISTINCT FROM (:etag, :last_modified)
            """),
            key | answered,
        )
    elif _means_the_same_later(page, normalized):
        connection.execute(
            text(f"""
                INSERT INTO validators (source, partition, request, etag, last_modified, digest, mapping)
                VALUES (:source, :partition, {_REQUEST}, :etag, :last_modified, :digest, :mapping)
                ON CONFLICT (source, partition, request) DO UPDATE
                   SET etag = excluded.etag, last_modified = excluded.last_modified, digest = excluded.digest,
                       mapping = excluded.mapping
            """),
            key | answered,
        )
    else:
        connection.execute(
            text(f"""
                DELETE FROM validators
                 WHERE source = :source AND partition = :partition AND request = {_REQUEST}
            """),
            key,
        )


def _means_the_same_later(page: Page, normalized: NormalizedPage) -> bool:
    """Whether no quote stands at the time of the fetch, and no item was refused only for being ahead of its time."""
    return page.fetched_at not in normalized.quotes.frame["observed_at"] and not any(
        reason["code"] == "in_future" for reject in normalized.rejects for reason in reject.reasons
    )


def delete_unrequested(engine: Engine, lease: Lease) -> None:
    """Keep of a partition what the run that has now been through it asked for.

    A source that asks from a time on never asks the same again, and its rows would become ever more.
    """
    with engine.begin() as connection:
        _one_at_a_time(connection, lease)
        connection.execute(
            text("""
                WITH asked AS (SELECT sha256(convert_to(request::text, 'UTF8')) AS request
                                 FROM pages WHERE run = :run AND partition = :partition)
                DELETE FROM validators WHERE source = :source AND partition = :partition
                   AND EXISTS (SELECT FROM asked) AND request NOT IN (SELECT request FROM asked)
                   AND EXISTS (SELECT FROM checkpoints WHERE source = :source AND partition = :partition
                                  AND lease_run = :run AND lease_token = :token)
            """),
            lease.key,
        )


def _one_at_a_time(connection: Connection, lease: Lease) -> None:
    """Two who move a source's rows, in whatever order, must not wait for each other."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:source, 0))"), lease.key)


def mapping_fingerprint(source: Source) -> bytes:
    """A fingerprint of the code that reads the source's bodies: this version, what sources share, its own modules."""
    own = {function.__module__ for function in (source.fetch, source.parse, source.normalize)}
    files = [file for name in sorted(own) if (file := getattr(sys.modules.get(name), "__file__", None))]
    return hashlib.sha256(b"".join([VERSION.encode(), *map(_digest, _SHARED), *map(_digest, files)])).digest()


@cache
def _digest(file: str | Path) -> bytes:
    return hashlib.sha256(Path(file).read_bytes()).digest()


_SHARED = (
    *sorted(Path(sources.__path__[0]).rglob("*.py")),
    *(Path(str(module.__file__)) for module in (mapping, normalize)),
)

# Now, with the code itself: files may be replaced under a process that runs.
for _source in SOURCES.values():
    mapping_fingerprint(_source)
