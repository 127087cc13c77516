"""What an answer says when it is not what was asked for: RFC 9457, with a code from a closed list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any
from urllib.parse import quote

import psycopg2
import structlog
from flask import Flask, Response, current_app, g, json, request
from psycopg2 import errorcodes
from sqlalchemy import exc
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from store.errors import DatabaseError, classify, describe, sqlstate

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
LONGEST_SHOWN = 60


class Code(Enum):
    """Every code an answer can carry: status, title, and what it means for who reads it."""

    def __init__(self, status: int, title: str, about: str):
        self.status, self.title, self.about = status, title, about

    MALFORMED_REQUEST = (
        400,
        "Malformed request",
        "The request is not HTTP or JSON that can be read. Repeat it corrected.",
    )
    TOKEN_REQUIRED = (
        401,
        "Token required",
        "The request needs `Authorization: Bearer <API_TOKEN>`: it carries none, or the service has no API_TOKEN set.",
    )
    TOKEN_INVALID = 401, "Token invalid", "The bearer token is not the one the service was given as API_TOKEN."
    NOT_FOUND = 404, "No such path", "Nothing is served at this path. /openapi.json lists every path."
    UNKNOWN_SOURCE = 404, "Unknown source", "There is no source of this name. GET /sources lists them."
    UNKNOWN_ASSET = 404, "Unknown asset", "There is no asset with this slug. GET /assets lists them."
    UNKNOWN_CHANGE = (
        404,
        "Unknown change",
        "Nothing was decided, or changed, under this id. GET /decisions and GET /sources/<name>/drift list them.",
    )
    UNKNOWN_RUN = 404, "Unknown run", "There is no run with this id. GET /runs lists them."
    NO_REJECTS = 404, "No such rejects", "Nothing in quarantine is what the body describes. GET /rejects lists it."
    METHOD_NOT_ALLOWED = (
        405,
        "Method not allowed",
        "The path does not take this method. The `Allow` header says which it takes.",
    )
    RUN_CONFLICT = (
        409,
        "Another run is under way",
        "The source has an unfinished run of this kind with other parameters, which the detail names: wait for it, or "
        "cancel it.",
    )
    DECISION_CONFLICT = (
        409,
        "Not to be decided so",
        "What is decided of these listings already stands against it; the detail says what.",
    )
    RUN_FINISHED = 409, "The run is over", "The run had ended before it could be cancelled. What it loaded stays."
    BODY_TOO_LARGE = 413, "Body too large", "The request's body is larger than any that this API takes."
    UNSUPPORTED_MEDIA_TYPE = (
        415,
        "Unsupported media type",
        "The body must be JSON, sent with `Content-Type: application/json`.",
    )
    INVALID_PARAMETER = (
        422,
        "Invalid parameter",
        "A query parameter or header is unknown or has a value that is not taken; `errors` names each.",
    )
    INVALID_CURSOR = (
        422,
        "Invalid cursor",
        "The cursor is damaged, or was given out for other filters or another path. Start again without one.",
    )
    INVALID_BODY = (
        422,
        "Invalid body",
        "A member of the body is missing, unknown, or not of the kind it must be; `errors` names each.",
    )
    IDEMPOTENCY_MISMATCH = (
        422,
        "Idempotency-Key was used before",
        "The same Idempotency-Key came with another body. Use a new key for a new request.",
    )
    INTERNAL_ERROR = (
        500,
        "Internal error",
        "The service failed in a way nobody foresaw. Its log says more, under the request_id of the answer.",
    )
    DATABASE_UNAVAILABLE = (
        503,
        "Database unavailable",
        "The database cannot be reached or cannot answer now. Repeat the request later.",
    )
    TOO_MANY_EXPORTS = (
        503,
        "Too many exports",
        "As many exports are under way as EXPORTS_AT_ONCE allows. Repeat the request after `Retry-After` seconds.",
    )
    QUERY_TIMEOUT = (
        503,
        "Query took too long",
        "The query was stopped at STATEMENT_TIMEOUT. Narrow it by filters or a smaller limit.",
    )

    @property
    def slug(self) -> str:
        return self.name.lower()


class Problem(Exception):
    """A view cannot answer as asked. errors: [{"in", "name", "detail"}, …], where a part of the request is at fault."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        hint: str | None = None,
        errors: Iterable[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(detail)
        self.code, self.detail, self.hint, self.errors = code, detail, hint, list(errors)
        self.headers = dict(headers or {})

    def answer(self) -> Response:
        body = {
            "type": f"/problems/{self.code.slug}",
            "title": self.code.title,
            "status": self.code.status,
            "detail": self.detail,
            "instance": quote(request.path, errors="replace"),
            "code": self.code.slug,
            "hint": self.hint or self.code.about,
            "errors": self.errors,
        }
        return Response(
            json.dumps(body, sort_keys=False, separators=(",", ":")),
            self.code.status,
            self.headers,
            mimetype=MEDIA_TYPE,
        )


def invalid_parameter(name: str, detail: str, *, where: str = "query") -> Problem:
    """One query parameter or header is at fault."""
    return Problem(Code.INVALID_PARAMETER, f"{name}: {detail}", errors=[{"in": where, "name": name, "detail": detail}])


def quoted(value: Any) -> str:
    """A value of a request, short enough and plain enough to stand in an answer or a log line."""
    text = ascii(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` where one of the known names is close, else nothing."""
    by_lower = {other.lower(): other for other in known}
    close = get_close_matches(name[:100].lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def install(app: Flask) -> None:
    app.before_request(_refuse_nul)
    app.register_error_handler(Problem, Problem.answer)
    app.register_error_handler(HTTPException, _of_http)
    for kind in (exc.SQLAlchemyError, psycopg2.Error):
        app.register_error_handler(kind, _of_database)
    app.register_error_handler(Exception, _unforeseen)


def _refuse_nul() -> None:
    # Postgres's text cannot hold it, so nothing can be named so.
    if "\x00" in request.path:
        raise NotFound


def _of_http(error: HTTPException) -> Any:
    if error.code is not None and error.code < 400:  # a redirect
        return error
    if isinstance(error, NotFound):
        return Problem(
            Code.NOT_FOUND, f"There is nothing at {quoted(request.path)}{suggestion(request.path, _paths()) or '.'}"
        ).answer()
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        detail = f"{quoted(request.path)} does not take {quoted(request.method)}; it takes {allowed}."
        return Problem(Code.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed}).answer()
    by_status = {413: Code.BODY_TOO_LARGE, 415: Code.UNSUPPORTED_MEDIA_TYPE}
    code = by_status.get(
        error.code or 500, Code.INTERNAL_ERROR if (error.code or 500) >= 500 else Code.MALFORMED_REQUEST
    )
    return Problem(code, code.about if code is Code.INTERNAL_ERROR else f"{error.name}.").answer()


def _paths() -> list[str]:
    return [rule.rule for rule in current_app.url_map.iter_rules() if not rule.arguments]


_TOO_LONG = (errorcodes.QUERY_CANCELED, errorcodes.LOCK_NOT_AVAILABLE, errorcodes.TRANSACTION_TIMEOUT)

# What a reader is told, and after how many seconds another try is worth it.
_NOW = {
    DatabaseError.CONFLICT: ("Others were in the way of it in the database.", 1),
    DatabaseError.UNAVAILABLE: ("The database cannot do this now.", 5),
    DatabaseError.FULL: ("No room is left on the database's disk.", 60),
}


def _of_database(error: exc.SQLAlchemyError | psycopg2.Error) -> Response:
    state, trouble = sqlstate(error), classify(error)
    if state in _TOO_LONG:
        log.warning("query_timed_out", sqlstate=state)
        return Problem(
            Code.QUERY_TIMEOUT, "The query was stopped because it took too long.", headers=_later(5)
        ).answer()
    if state == errorcodes.UNDEFINED_TABLE:
        log.error("tables_missing")
        hint = "Run `alembic upgrade head` against DATABASE_URL."
        return Problem(
            Code.DATABASE_UNAVAILABLE, "The database lacks Kasparro's tables.", hint=hint, headers=_later(30)
        ).answer()
    if trouble is None:
        return _unforeseen(error)
    log.error("database_unavailable", reason=describe(error))
    detail, seconds = _NOW.get(trouble, ("The database does not answer.", 5))
    return Problem(Code.DATABASE_UNAVAILABLE, detail, headers=_later(seconds)).answer()


def _later(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}


def _unforeseen(error: Exception) -> Response:
    log.error("exception_unhandled", exc_info=error)
    detail = f"The service could not answer; its log says why, under request {g.get('request_id', 'unknown')}."
    return Problem(Code.INTERNAL_ERROR, detail).answer()
