"""Require the bearer token: for every write, and for every read if READS_NEED_TOKEN is set."""

from __future__ import annotations

import hmac
from hashlib import sha256

from flask import Flask, request

from app.web.context import context
from app.web.problems import Code, Problem

READ_METHODS = ("GET", "HEAD", "OPTIONS")

PUBLIC_ENDPOINTS = ("health.live", "docs.", "static")
"""Prefixes of endpoints that never need the token: container probes have none, and the documentation holds no data."""


def install(app: Flask) -> None:
    app.before_request(_authorize)


def _authorize() -> None:
    # A 404 or 405 takes precedence over a 401.
    if request.routing_exception is not None or not _needs_token():
        return
    token = context().settings.api_token
    if token is None:
        raise _unauthorized(
            Code.TOKEN_REQUIRED,
            "The service has no API_TOKEN, so it accepts no bearer token.",
            "Set API_TOKEN in the environment of the service and restart it.",
        )
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        raise _unauthorized(Code.TOKEN_REQUIRED, "The request needs a bearer token.", Code.TOKEN_REQUIRED.hint)
    if not hmac.compare_digest(_digest(credentials.strip()), _digest(token)):
        raise _unauthorized(Code.TOKEN_INVALID, "The bearer token is wrong.", Code.TOKEN_INVALID.hint)


def _needs_token() -> bool:
    if request.method not in READ_METHODS:
        return True
    return context().settings.reads_need_token and not (request.endpoint or "").startswith(PUBLIC_ENDPOINTS)


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _unauthorized(code: Code, detail: str, hint: str) -> Problem:
    error = ', error="invalid_token"' if code is Code.TOKEN_INVALID else ""
    return Problem(code, detail, hint=hint, headers={"WWW-Authenticate": f'Bearer realm="kasparro"{error}'})
