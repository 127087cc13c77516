"""Add the request id, latency and security headers to each response, and log one line for it."""

from __future__ import annotations

import re
import time
from uuid import uuid4

import structlog
from flask import Flask, Response, g, json, request
from marshmallow import Schema, fields

from app.web.problems import MEDIA_TYPE

log = structlog.get_logger(__name__)

VALID_REQUEST_ID = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?")
ENVELOPED = ("application/json", MEDIA_TYPE)
NO_ACTIVE_CONTENT = "default-src 'none'; frame-ancestors 'none'"
UNLOGGED_ENDPOINT = "health.live"
UNCHANGED_ENDPOINT = "docs.openapi"


class Envelope(Schema):
    """The members that every JSON response has in addition to its own."""

    request_id = fields.String(metadata={"description": "The `X-Request-ID` of the request, or a generated id."})
    api_latency_seconds = fields.Float(metadata={"description": "Seconds that the service took to respond."})


def install(app: Flask) -> None:
    app.before_request(_start)
    app.after_request(_finish)


def _start() -> None:
    g.started = time.perf_counter()
    header = request.headers.get("X-Request-ID", "")
    g.request_id = header if VALID_REQUEST_ID.fullmatch(header) else uuid4().hex
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _finish(response: Response) -> Response:
    seconds = round(time.perf_counter() - g.started, 6)
    if response.mimetype in ENVELOPED and request.endpoint != UNCHANGED_ENDPOINT:
        _add_members(response, {"request_id": g.request_id, "api_latency_seconds": seconds})
    response.headers["X-Request-ID"] = g.request_id
    response.headers.setdefault("Cache-Control", "no-cache")
    response.headers.setdefault("Content-Security-Policy", NO_ACTIVE_CONTENT)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    if request.endpoint != UNLOGGED_ENDPOINT:
        cached = {"cached": True} if "is_cached" in g else {}
        values = {"method": request.method, "route": route(), "status": response.status_code}
        log.info("request_completed", **values, duration_seconds=seconds, **cached)
    return response


def route() -> str:
    """Return the URL rule that matched, not the path: paths can contain anything, and their number is unlimited."""
    return request.url_rule.rule if request.url_rule else "unmatched"


def _add_members(response: Response, members: dict[str, object]) -> None:
    """Add members to the JSON object in the body, without parsing it: the body can be half a megabyte."""
    body = response.get_data().rstrip()
    if body.startswith(b"{") and body.endswith(b"}"):
        comma = b"" if body[1:-1].isspace() or body == b"{}" else b","
        response.set_data(
            body[:-1] + comma + json.dumps(members, sort_keys=False, separators=(",", ":")).encode()[1:] + b"\n"
        )
