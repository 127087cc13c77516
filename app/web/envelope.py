"""What every answer has around it: request id, time taken, safe headers; and its one line in the log."""

from __future__ import annotations

import re
import time
from uuid import uuid4

import structlog
from flask import Flask, Response, g, json, request

from app.web.problems import MEDIA_TYPE

log = structlog.get_logger(__name__)

ACCEPTABLE_ID = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?")
ENVELOPED = ("application/json", MEDIA_TYPE)
NOTHING_ACTIVE = "default-src 'none'; frame-ancestors 'none'"
UNLOGGED = "health.live"
AS_IT_IS = "docs.openapi"


def install(app: Flask) -> None:
    app.before_request(_open)
    app.after_request(_close)


def _open() -> None:
    g.started = time.perf_counter()
    sent = request.headers.get("X-Request-ID", "")
    g.request_id = sent if ACCEPTABLE_ID.fullmatch(sent) else uuid4().hex
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _close(response: Response) -> Response:
    seconds = round(time.perf_counter() - g.started, 6)
    if response.mimetype in ENVELOPED and request.endpoint != AS_IT_IS:
        _splice(response, {"request_id": g.request_id, "api_latency_seconds": seconds})
    response.headers["X-Request-ID"] = g.request_id
    response.headers.setdefault("Cache-Control", "no-cache")
    response.headers.setdefault("Content-Security-Policy", NOTHING_ACTIVE)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    if request.endpoint != UNLOGGED:
        kept = {"kept": True} if "is_kept" in g else {}
        about = {"method": request.method, "route": route(), "status": response.status_code}
        log.info("request_completed", **about, duration_seconds=seconds, **kept)
    return response


def route() -> str:
    """The rule that matched, never the path itself: paths are without number, and may hold anything."""
    return request.url_rule.rule if request.url_rule else "unmatched"


def _splice(response: Response, members: dict[str, object]) -> None:
    """Add members to the JSON object that the body is, without reading it: it may be half a megabyte."""
    body = response.get_data().rstrip()
    if body.startswith(b"{") and body.endswith(b"}"):
        comma = b"" if body[1:-1].isspace() or body == b"{}" else b","
        response.set_data(
            body[:-1] + comma + json.dumps(members, sort_keys=False, separators=(",", ":")).encode()[1:] + b"\n"
        )
