"""Answers that carry an ETag, found before the query: who has the answer already is told so, and nothing is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from flask import Flask, Response, g, request
from sqlalchemy import Connection, text

from app.written import Written
from settings import VERSION

ETAG = {"ETag": {"description": "Weak. Send it as `If-None-Match`.", "schema": {"type": "string"}}}
"""The header of such an answer, for the documentation."""

# Each page raises the version of its checkpoint, and what changes otherwise counts a revision, in its own transaction.
# A database that was set back to an older state has versions again that it had, but not at the same times.
_STATE = Written(
    text("""
        SELECT concat_ws('/', count(*), sum(version), max(updated_at), (SELECT sum(number) FROM revisions))
          FROM checkpoints
    """)
)


class NotModified(Exception):
    """The reader has the answer already."""


def install(app: Flask) -> None:
    app.register_error_handler(NotModified, lambda _: Response(status=304))
    app.after_request(_tag)


def give_only_if_modified(connection: Connection, arguments: Mapping[str, Any]) -> None:
    """Tag the answer of this request; raises NotModified where the reader has it.

    To be called before the rows are read: what is committed in between is in the answer, and its tag an older one, with
    which the reader is answered anew. The other way round they would be told that they have it.
    """
    asked = [VERSION, request.path, arguments, _STATE.on(connection, {}).scalar_one()]
    g.etag = sha256(json.dumps(asked, default=str).encode()).hexdigest()[:32]
    if request.if_none_match.contains_weak(g.etag):
        raise NotModified


def _tag(response: Response) -> Response:
    if "etag" in g and response.status_code in (200, 304):
        response.set_etag(g.etag, weak=True)
        # A store may keep it, if it asks each time.
        response.headers["Cache-Control"] = "private, no-cache"
    return response
