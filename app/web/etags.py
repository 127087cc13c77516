"""Tag responses with an ETag of the state of the data, and send a 304 if the client already has the response."""

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

ETAG_HEADER = {"ETag": {"description": "Weak ETag. Send it as `If-None-Match`.", "schema": {"type": "string"}}}
"""The header of a tagged response, for the OpenAPI document."""

NOT_MODIFIED = "Not modified: the client's copy is current."
"""The description of a 304, for the OpenAPI document."""

# A committed page increases the version of its checkpoint; every other change increases a revision. Both happen in the
# transaction of the change. The steps are random, so that a database that lost commits never repeats their numbers.
_REVISIONS = select(func.sum(RevisionRow.number)).scalar_subquery()
DATA_VERSION = select(
    func.concat_ws("/", func.count(), func.sum(CheckpointRow.version), func.max(CheckpointRow.updated_at), _REVISIONS)
).scalar_subquery()
"""The state of the data, as an SQL expression: text that differs after any change."""

_STATE = PreparedStatement(select(DATA_VERSION))


class Tag(NamedTuple):
    """An ETag, and the state of the data that it was computed from. The response has that state or a newer state."""

    etag: str
    state: str


class NotModified(Exception):
    """The client already has the response."""


def install(app: Flask) -> None:
    app.register_error_handler(NotModified, lambda _: Response(status=304))
    app.after_request(_add_tag)


def raise_if_not_modified(connection: Connection, arguments: Mapping[str, Any]) -> None:
    """Tag the response of this request. Raise NotModified if the client already has it.

    Call this before you read anything else. If a page is committed after this call, the response may contain the page
    under the older tag, and the client's next request gets it again. In the reverse order, the client would get a 304
    and miss the page.
    """
    compute_tag(arguments, data_version(connection))
    _raise_if_client_has(g.tag)


def reuse_tag(tag: Tag) -> None:
    """Tag the response of this request with a cached response's tag.

    Raise NotModified if the client already has that response.
    """
    g.tag = tag
    _raise_if_client_has(tag)


def _raise_if_client_has(tag: Tag) -> None:
    if request.if_none_match.contains_weak(tag.etag):
        raise NotModified


def compute_tag(arguments: Mapping[str, Any], state: str) -> None:
    """Compute the tag of this response, unless it has one. state: state of the data, read before or with the rows."""
    if "tag" not in g:
        identity = [VERSION, request.path, arguments, state]
        g.tag = Tag(sha256(json.dumps(identity, default=str).encode()).hexdigest()[:32], state)


def data_version(connection: Connection) -> str:
    """Return the state of the data: text that differs after any change."""
    state: str = _STATE.value(connection, {})
    return state


def _add_tag(response: Response) -> Response:
    if "tag" in g and response.status_code in (200, 304):
        response.set_etag(g.tag.etag, weak=True)
        # The client may store the response, but must revalidate it each time.
        response.headers["Cache-Control"] = "private, no-cache"
    return response
