"""Store the last response to each conditional request, so that unchanged bodies are not loaded again.

A validator is written in the transaction that loads its page, so that every validator belongs to a loaded page. A body
may be skipped only if loading it again would change nothing. Therefore:

* A body whose meaning depends on the time of the fetch gets no validator.
* A page that overwrites quotes deletes all validators of its source.
* A validator is valid only for the code that read the body (`mapping`).
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
from store.locks import NamedLock, take_named_lock
from tasks.archive.raw_bodies import read_body
from tasks.drift import changes, mapping, policy, profile
from tasks.pipeline import conflicts, dropped, normalize, numbers_in_text, quote_frame
from tasks.pipeline.normalize import NormalizedPage
from tasks.runs.leases import Lease

_REQUEST = "sha256(convert_to(CAST(:request AS jsonb)::text, 'UTF8'))"


def known_response(engine: Engine, source: Source, partition: str, request: Mapping[str, Any]) -> KnownResponse | None:
    """Return the last response to a request. Return None if the code has changed or the body is no longer stored."""
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
    """Record the response to the page's request, in the transaction that loads the page.

    overwrites: whether the page changed stored quotes. If so, earlier bodies no longer match them.
    """
    response = page.response if page.is_whole_response else None
    if response is None and not overwrites:
        return
    key = {"source": lease.claim.source, "partition": lease.partition, "request": json.dumps(page.request)}
    _lock_validators(connection, lease)
    if overwrites:
        connection.execute(text("DELETE FROM validators WHERE source = :source"), key)
    if response is None:
        return
    validator = {
        "etag": response.etag,
        "last_modified": response.last_modified,
        "digest": page.digest,
        "mapping": normalized.mapping,
    }
    if page.unchanged:
        # Do not insert a validator. If it was deleted meanwhile, it is no longer valid.
        connection.execute(
            text(f"""
                UPDATE validators SET etag = :etag, last_modified = :last_modified
                 WHERE source = :source AND partition = :partition AND request = {_REQUEST}
                   AND digest = :digest AND mapping = :mapping
                   AND (etag, last_modified) IS DISTINCT FROM (:etag, :last_modified)
            """),
            key | validator,
        )
    elif _is_timeless(page, normalized):
        connection.execute(
            text(f"""
                INSERT INTO validators (source, partition, request, etag, last_modified, digest, mapping)
                VALUES (:source, :partition, {_REQUEST}, :etag, :last_modified, :digest, :mapping)
                ON CONFLICT (source, partition, request) DO UPDATE
                   SET etag = excluded.etag, last_modified = excluded.last_modified, digest = excluded.digest,
                       mapping = excluded.mapping
            """),
            key | validator,
        )
    else:
        connection.execute(
            text(f"""
                DELETE FROM validators
                 WHERE source = :source AND partition = :partition AND request = {_REQUEST}
            """),
            key,
        )


def _is_timeless(page: Page, normalized: NormalizedPage) -> bool:
    """Return whether a later load has the same result: no quote has the fetch time, and no reject is `in_future`."""
    return page.fetched_at not in normalized.quotes.frame["observed_at"] and not normalized.has_reject("in_future")


def delete_unrequested(engine: Engine, lease: Lease) -> None:
    """Delete a partition's validators for requests that this run did not send.

    If a source's requests contain a time, it never repeats a request. Its validators would accumulate without limit.
    """
    with engine.begin() as connection:
        _lock_validators(connection, lease)
        connection.execute(
            text("""
                WITH requested AS (SELECT sha256(convert_to(request::text, 'UTF8')) AS request
                                 FROM pages WHERE run = :run AND partition = :partition)
                DELETE FROM validators WHERE source = :source AND partition = :partition
                   AND EXISTS (SELECT FROM requested) AND request NOT IN (SELECT request FROM requested)
                   AND EXISTS (SELECT FROM checkpoints WHERE source = :source AND partition = :partition
                                  AND lease_run = :run AND lease_token = :token)
            """),
            lease.key,
        )


def _lock_validators(connection: Connection, lease: Lease) -> None:
    """Serialize changes to a source's validators. Workers that change them in different orders would deadlock."""
    take_named_lock(connection, NamedLock.VALIDATORS, lease.claim.source)


def mapping_fingerprint(source: Source) -> bytes:
    """Return a fingerprint of the code that reads the source's bodies: version, shared and own modules."""
    own = {function.__module__ for function in (source.fetch, source.parse, source.normalize)}
    files = [file for name in sorted(own) if (file := getattr(sys.modules.get(name), "__file__", None))]
    return hashlib.sha256(b"".join([VERSION.encode(), *map(_digest, _SHARED), *map(_digest, files)])).digest()


@cache
def _digest(file: str | Path) -> bytes:
    return hashlib.sha256(Path(file).read_bytes()).digest()


_SHARED = (
    *sorted(Path(sources.__path__[0]).rglob("*.py")),
    *(
        Path(str(module.__file__))
        for module in (changes, mapping, policy, profile, conflicts, dropped, normalize, numbers_in_text, quote_frame)
    ),
)

# Read the files when the code is imported, because they may be replaced while the process runs.
for _source in SOURCES.values():
    mapping_fingerprint(_source)
