"""Who may: every write needs the bearer token, and every read where READS_NEED_TOKEN says so."""

from __future__ import annotations

import hmac
from hashlib import sha256

from flask import Flask, request

from app.web.context import context
from app.web.problems import Code, Problem

READS = ("GET", "HEAD", "OPTIONS")
# Liveness is for the container, and the documentation holds no data.
OPEN = ("health.live", "docs.", "static")


def install(app: Flask) -> None:
    app.before_request(_authorize)


def _authorize() -> None:
    # What would be a 404 or 405 stays one.
    if request.routing_exception is not None or not _needs_token():
        return
    token = context().settings.api_token
    if token is None:
        raise _refusal(
            Code.TOKEN_REQUIRED,
            "The service has no API_TOKEN.",
            "Set API_TOKEN where the service runs, and start it again.",
        )
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise _refusal(Code.TOKEN_REQUIRED, "This needs a bearer token.", "Send `Authorization: Bearer <API_TOKEN>`.")
    if not hmac.compare_digest(_digest(given.strip()), _digest(token)):
        raise _refusal(
            Code.TOKEN_INVALID, "The bearer token is wrong.", "Send the API_TOKEN that the service was started with."
        )


def _needs_token() -> bool:
    if request.method not in READS:
        return True
    return context().settings.reads_need_token and not (request.endpoint or "").startswith(OPEN)


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _refusal(code: Code, detail: str, hint: str) -> Problem:
    error = ', error="invalid_token"' if code is Code.TOKEN_INVALID else ""
    return Problem(code, detail, hint=hint, headers={"WWW-Authenticate": f'Bearer realm="kasparro"{error}'})
