"""Answers that carry an ETag, found before the query: who has the answer already is told so, and nothing is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from flask import Flask, Response, g, request
from sqlalchemy import Connection, func, select

from app.web.prepared import PreparedStatement
from settings import VERSION
from store.tables import CheckpointRow, RevisionRow

ETAG_HEADER = {"ETag": {"description": "Weak. Send it as `If-None-Match`.", "schema": {"type": "string"}}}
"""The header of such an answer, for the documentation."""

# Each page raises the version of its checkpoint, and what changes otherwise counts a revision, in its own transaction.
# A database that was set back to an older state has versions again that it had, but not at the same times.
_REVISIONS = select(func.sum(RevisionRow.number)).scalar_subquery()
DATA_VERSION = select(
    func.concat_ws("/", func.count(), func.sum(CheckpointRow.version), func.max(CheckpointRow.updated_at), _REVISIONS)
).scalar_subquery()
"""Of the data, as an expression: another once something has changed."""

_STATE = PreparedStatement(select(DATA_VERSION))


class Tag(NamedTuple):
    """state: of the data, which the answer is of, or one before it."""

    etag: str
    state: str


class NotModified(Exception):
    """The reader has the answer already."""


def install(app: Flask) -> None:
    app.register_error_handler(NotModified, lambda _: Response(status=304))
    app.after_request(_add_tag)


def raise_if_not_modified(connection: Connection, arguments: Mapping[str, Any]) -> None:
    """Tag the answer of this request; raises NotModified where the reader has it.

    To be called before anything is read: what is committed in between is in the answer, and its tag an older one, with
    which the reader is answered anew. The other way round they would be told that they have it.
    """
    tag(arguments, data_version(connection))
    _unless_had(g.tag)


def tag_again(given: Tag) -> None:
    """Tag the answer of this request as it was before; raises NotModified where the reader has it."""
    g.tag = given
    _unless_had(given)


def _unless_had(given: Tag) -> None:
    if request.if_none_match.contains_weak(given.etag):
        raise NotModified


def tag(arguments: Mapping[str, Any], state: str) -> None:
    """Tag the answer of this request, unless it is tagged. state: as of the first that was read for it, or before."""
    if "tag" not in g:
        asked = [VERSION, request.path, arguments, state]
        g.tag = Tag(sha256(json.dumps(asked, default=str).encode()).hexdigest()[:32], state)


def data_version(connection: Connection) -> str:
    """Another once something has changed."""
    state: str = _STATE.value(connection, {})
    return state


def _add_tag(response: Response) -> Response:
    if "tag" in g and response.status_code in (200, 304):
        response.set_etag(g.tag.etag, weak=True)
        # A store may keep it, if it asks each time.
        response.headers["Cache-Control"] = "private, no-cache"
    return response
